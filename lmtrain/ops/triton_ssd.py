"""The scalar-decay recurrence by Triton kernels, in one process and phase by phase across many."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from lmtrain.ops.chunk_tables import SpanTable, span_table
from lmtrain.ops.recurrence import AffineState, Carry, Recurrence
from lmtrain.ops.ssd import ScalarDecay
from lmtrain_kernels.ssd import ssd
from lmtrain_kernels.ssd_backward import backward
from lmtrain_kernels.ssd_forward import forward
from lmtrain_kernels.ssd_segments import (
    Summary,
    cosummary,
    enter_segments,
    span_state,
    summarize_segments,
)

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout

CHUNK = 64
"""Tokens of a chunk."""
COLUMNS = 64
"""Of a state, that one program holds."""


class _Inputs(NamedTuple):
    """``q, k, v`` in one dtype, ``decay`` in fp32."""

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor

    @classmethod
    def of(cls, inputs: tuple[Tensor, ...]) -> _Inputs:
        """In the dtype of ``v``, which activations have."""
        q, k, v, decay = inputs
        return cls(q.to(v.dtype), k.to(v.dtype), v, decay.float())

    def packed(self) -> _Inputs:
        """Contiguous, as the phases read them."""
        return _Inputs(*(x.contiguous() for x in self))


class _Forward(NamedTuple):
    """Between the phases forward."""

    inputs: _Inputs
    summary: Summary


class _Backward(NamedTuple):
    """Between the phases backward; ``summary`` is of the walk in reverse."""

    inputs: _Inputs
    entering: Tensor
    d_out: Tensor
    summary: Summary


class TritonScalarDecay(Recurrence[SpanTable, _Forward, _Backward]):
    """``ops.ssd.ScalarDecay`` for bf16, fp16 and fp32; states in fp32."""

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
        return ssd(*_Inputs.of(inputs), table, initial if continues else None)

    def step(self, inputs: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
        """One token, by torch."""
        return _TORCH.step(inputs, state)

    def grid(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> SpanTable:
        """Chunks of ``CHUNK`` tokens."""
        heads, width = inputs[2].shape[1:]
        return layout.derive(span_table, CHUNK, heads * -(-width // COLUMNS), "ssd_segments")

    def begin(self, inputs: tuple[Tensor, ...], grid: SpanTable) -> _Forward:
        """What links the segments of long documents; all else is one walk over the inputs."""
        x = _Inputs.of(inputs).packed()
        return _Forward(x, summarize_segments(x.k, x.v, x.decay, grid.table, reverse=False))

    def summary(self, work: _Forward, grid: SpanTable, *, alive: bool) -> AffineState:
        """Transition ``[h]`` and state ``[h, k, v]``."""
        (_, k, v, decay), summary = work
        return AffineState(*span_state(k, v, decay, grid.table, summary, alive=alive))

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
        """Keeps the states that entered segments."""
        initial = initial if grid.continues else None
        entering = enter_segments(work.summary, grid.table, initial, reverse=False)
        out, final = forward(*work.inputs, grid.table, entering)
        return out, final, (entering,)

    def begin_backward(
        self,
        inputs: tuple[Tensor, ...],
        kept: tuple[Tensor, ...],
        d_out: Tensor,
        grid: SpanTable,
    ) -> _Backward:
        """What links segments in reverse."""
        x, (entering,) = _Inputs.of(inputs).packed(), kept
        d_out = d_out.to(x.v.dtype).contiguous()
        summary = summarize_segments(x.q, d_out, x.decay, grid.table, reverse=True)
        return _Backward(x, entering, d_out, summary)

    def cosummary(self, work: _Backward, grid: SpanTable) -> Tensor:
        """``[h, k, v]``."""
        (q, _, _, decay), _, d_out, summary = work
        d_state = cosummary(q, decay, d_out, grid.table, summary)
        return d_state if grid.continues else torch.zeros_like(d_state)

    def finish_backward(
        self, work: _Backward, d_final: Tensor | None, grid: SpanTable
    ) -> tuple[list[Tensor], Tensor]:
        """Of ``q, k, v, decay``."""
        inputs, entering, d_out, summary = work
        leaving = enter_segments(summary, grid.table, d_final, reverse=True)
        *of_inputs, d_initial = backward(*inputs, d_out, grid.table, entering, leaving)
        return of_inputs, d_initial if grid.continues else torch.zeros_like(d_initial)


_TORCH = ScalarDecay()
