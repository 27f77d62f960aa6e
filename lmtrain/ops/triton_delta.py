"""The gated delta rule by Triton kernels, in one process and phase by phase across many."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from lmtrain.ops.chunk_tables import SpanTable, span_table
from lmtrain.ops.gated_delta import GatedDelta
from lmtrain.ops.recurrence import AffineState, Carry, Recurrence
from lmtrain_kernels.delta_backward import (
    begin_backward,
    cosummarize_segments,
    leave_segments,
    pass_d_states,
    span_cosummary,
)
from lmtrain_kernels.delta_gradients import gradients
from lmtrain_kernels.delta_outputs import outputs
from lmtrain_kernels.delta_prepare import CHUNK, Prepared, prepare, recompute
from lmtrain_kernels.delta_states import (
    States,
    Summary,
    enter_segments,
    pass_states,
    span_state,
    summarize_segments,
)
from lmtrain_kernels.gated_delta import gated_delta

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout
COLUMNS = 64
"""Of a state, that one program holds."""


class _Inputs(NamedTuple):
    """``q, k, v`` in one dtype, ``decay, beta`` in fp32."""

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor
    beta: Tensor

    @classmethod
    def of(cls, inputs: tuple[Tensor, ...]) -> _Inputs:
        """In the dtype of ``v``, which activations have."""
        q, k, v, decay, beta = inputs
        return cls(q.to(v.dtype), k.to(v.dtype), v, decay.float(), beta.float())

    def packed(self) -> _Inputs:
        """Contiguous, as the phases read them."""
        return _Inputs(*(x.contiguous() for x in self))


class _Forward(NamedTuple):
    """Between the phases forward."""

    inputs: _Inputs
    prepared: Prepared
    summary: Summary


class _Backward(NamedTuple):
    """Between the phases backward."""

    inputs: _Inputs
    prepared: Prepared
    states: States
    d_out: Tensor
    d_written: Tensor
    transition: Tensor
    local: Tensor


class TritonGatedDelta(Recurrence[SpanTable, _Forward, _Backward]):
    """``ops.gated_delta.GatedDelta`` for bf16, fp16 and fp32; states in fp32."""

    def scan(
        self,
        inputs: tuple[Tensor, ...],
        layout: SequenceLayout,
        initial: Tensor | None = None,
        carry: Carry | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Without a carry one registered operator, which a compiler leaves whole."""
        if carry is not None:
            return super().scan(inputs, layout, initial, carry)
        table, continues = self.grid(inputs, layout)
        return gated_delta(*_Inputs.of(inputs), table, initial if continues else None)

    def step(self, inputs: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
        """One token, by torch."""
        return _TORCH.step(inputs, state)

    def grid(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> SpanTable:
        """Chunks of 64 tokens."""
        heads, width = inputs[2].shape[1:]
        return layout.derive(span_table, CHUNK, heads * -(-width // COLUMNS), "delta_segments")

    def begin(self, inputs: tuple[Tensor, ...], grid: SpanTable) -> _Forward:
        """The triangular systems, solved, and what links the segments of long documents."""
        x = _Inputs.of(inputs).packed()
        prepared = prepare(x.k, x.v, x.decay, x.beta, grid.table)
        return _Forward(x, prepared, summarize_segments(x.k, prepared, grid.table))

    def summary(self, work: _Forward, grid: SpanTable, *, alive: bool) -> AffineState:
        """Transition ``[h, k, k]`` and state ``[h, k, v]``."""
        x, prepared, summary = work
        return AffineState(*span_state(x.k, prepared, grid.table, summary, alive=alive))

    def inside(self, work: _Forward) -> Tensor:
        """Nothing: outputs come from one kernel, once the states are known."""
        return work.inputs.v.new_empty(0)

    def finish(
        self,
        work: _Forward,
        inside: Tensor,  # noqa: ARG002  empty
        initial: Tensor | None,
        grid: SpanTable,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Keeps the solved systems, what links segments, and the states that entered them."""
        x, prepared, summary = work
        entering = enter_segments(summary, grid.table, initial if grid.continues else None)
        states = pass_states(x.k, prepared, grid.table, entering)
        out = outputs(x.q, x.k, prepared.total, states.states, states.written, grid.table)
        kept = prepared.total, prepared.inverse, summary.transition, entering
        return out, states.final, kept

    def begin_backward(
        self,
        inputs: tuple[Tensor, ...],
        kept: tuple[Tensor, ...],
        d_out: Tensor,
        grid: SpanTable,
    ) -> _Backward:
        """The states again, and what the outputs of each chunk ask of what it wrote."""
        x, (total, inverse, transition, entering) = _Inputs.of(inputs).packed(), kept
        table, d_out = grid.table, d_out.contiguous()
        prepared = Prepared(total, inverse, *recompute(x.k, x.v, x.beta, total, inverse, table))
        states = pass_states(x.k, prepared, table, entering)
        d_written = begin_backward(x.q, x.k, total, d_out, table)
        local = cosummarize_segments(x.q, x.k, prepared, d_out, d_written, table)
        return _Backward(x, prepared, states, d_out, d_written, transition, local)

    def cosummary(self, work: _Backward, grid: SpanTable) -> Tensor:
        """``[h, k, v]``."""
        x, prepared, _, d_out, d_written, transition, local = work
        d_state = span_cosummary(
            x.q, x.k, prepared, d_out, d_written, grid.table, transition, local
        )
        return d_state if grid.continues else torch.zeros_like(d_state)

    def finish_backward(
        self, work: _Backward, d_final: Tensor | None, grid: SpanTable
    ) -> tuple[list[Tensor], Tensor]:
        """Of ``q, k, v, decay, beta``."""
        (q, k, v, _, beta), prepared, states, d_out, d_written, transition, local = work
        leaving = leave_segments(transition, local, grid.table, d_final)
        d_states, d_written, d_initial = pass_d_states(
            q, k, prepared, d_out, d_written, grid.table, leaving
        )
        of_inputs = gradients(
            *(q, k, v, beta, prepared, states.states, states.written),
            *(d_out, d_written, d_states, grid.table),
        )
        return list(of_inputs), d_initial if grid.continues else torch.zeros_like(d_initial)


_TORCH = GatedDelta()
