"""The gated delta rule by Triton kernels, in one process and phase by phase across many."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from lmtrain.ops.chunk_tables import SpanTable, span_table
from lmtrain.ops.gated_delta import GatedDelta
from lmtrain.ops.recurrence import AffineState, Carry, Recurrence
from lmtrain_kernels.delta_backward import begin_backward, pass_d_states, span_cosummary
from lmtrain_kernels.delta_gradients import gradients
from lmtrain_kernels.delta_outputs import outputs
from lmtrain_kernels.delta_prepare import CHUNK, Prepared, prepare, recompute
from lmtrain_kernels.delta_states import States, pass_states, span_state
from lmtrain_kernels.gated_delta import gated_delta

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout

COLUMNS = 64
"""Of a state, that one program holds."""
WORTH = 4
"""Segments of a document from which on cutting pays: summaries walk keys beside values, twice the
columns of a state, and make ``w`` and ``u`` again."""


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


class _Backward(NamedTuple):
    """Between the phases backward."""

    inputs: _Inputs
    prepared: Prepared
    states: States
    d_out: Tensor
    d_written: Tensor


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
        return layout.derive(span_table, CHUNK, heads * -(-width // COLUMNS), WORTH)

    def begin(self, inputs: tuple[Tensor, ...], grid: SpanTable) -> _Forward:
        """The triangular systems, solved."""
        x = _Inputs.of(inputs).packed()
        return _Forward(x, prepare(x.k, x.v, x.decay, x.beta, grid.table))

    def summary(self, work: _Forward, grid: SpanTable, *, alive: bool) -> AffineState:
        """Transition ``[h, k, k]`` and state ``[h, k, v]``."""
        return AffineState(*span_state(work.inputs.k, work.prepared, grid.table, alive=alive))

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
        """Keeps the solved systems, and the states that entered segments, or the span."""
        x, prepared = work
        initial = initial if grid.continues else None
        states = pass_states(x.k, prepared, grid.table, initial)
        out = outputs(x.q, x.k, prepared.total, states.states, states.written, grid.table)
        entered = initial if states.entering is None else states.entering
        kept = [] if entered is None else [entered]
        return out, states.final, (prepared.total, prepared.inverse, *kept)

    def begin_backward(
        self,
        inputs: tuple[Tensor, ...],
        kept: tuple[Tensor, ...],
        d_out: Tensor,
        grid: SpanTable,
    ) -> _Backward:
        """The states again, and what the outputs of each chunk ask of what it wrote."""
        x, (total, inverse, *rest), table = _Inputs.of(inputs).packed(), kept, grid.table
        w, u = recompute(x.k, x.v, x.beta, total, inverse, table)
        prepared, d_out = Prepared(total, inverse, w, u), d_out.contiguous()
        entered = rest[0] if rest else None
        states = pass_states(x.k, prepared, table, entered, entered if table.cut else None)
        d_written = begin_backward(x.q, x.k, total, d_out, table)
        return _Backward(x, prepared, states, d_out, d_written)

    def cosummary(self, work: _Backward, grid: SpanTable) -> Tensor:
        """``[h, k, v]``."""
        x, prepared, _, d_out, d_written = work
        d_state = span_cosummary(x.q, x.k, prepared, d_out, d_written, grid.table)
        return d_state if grid.continues else torch.zeros_like(d_state)

    def finish_backward(
        self, work: _Backward, d_final: Tensor | None, grid: SpanTable
    ) -> tuple[list[Tensor], Tensor]:
        """Of ``q, k, v, decay, beta``."""
        (q, k, v, _, beta), prepared, states, d_out, d_written = work
        d_states, d_written, d_initial = pass_d_states(
            q, k, prepared, d_out, d_written, grid.table, d_final
        )
        of_inputs = gradients(
            *(q, k, v, beta, prepared, states.states, states.written),
            *(d_out, d_written, d_states, grid.table),
        )
        return list(of_inputs), d_initial if grid.continues else torch.zeros_like(d_initial)


_TORCH = GatedDelta()
