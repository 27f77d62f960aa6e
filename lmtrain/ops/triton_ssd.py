"""The scalar-decay recurrence by Triton kernels, in one process and phase by phase across many."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from lmtrain.ops.chunk_tables import SpanTable, span_table
from lmtrain.ops.recurrence import AffineState, Carry, Recurrence
from lmtrain.ops.ssd import ScalarDecay
from lmtrain_kernels.ssd import backward, cosummary, forward, span_state, ssd

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout

CHUNK = 64
"""Tokens of a chunk."""
COLUMNS = 64
"""Of a state, that one program holds."""
WORTH = 2
"""Segments of a document from which on cutting pays: a summary is a walk without outputs."""


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


class _Backward(NamedTuple):
    """Between the phases backward: states that entered segments, and the gradient of outputs."""

    inputs: _Inputs
    entering: Tensor
    d_out: Tensor


class TritonScalarDecay(Recurrence[SpanTable, _Inputs, _Backward]):
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
        return layout.derive(span_table, CHUNK, heads * -(-width // COLUMNS), WORTH)

    def begin(self, inputs: tuple[Tensor, ...], grid: SpanTable) -> _Inputs:  # noqa: ARG002
        """Nothing: a program walks its segment from the inputs to the outputs."""
        return _Inputs.of(inputs)

    def summary(self, work: _Inputs, grid: SpanTable, *, alive: bool) -> AffineState:
        """Transition ``[h]`` and state ``[h, k, v]``."""
        return AffineState(*span_state(work.k, work.v, work.decay, grid.table, alive=alive))

    def inside(self, work: _Inputs) -> Tensor:
        """Nothing: outputs come from one kernel, once the states are known."""
        return work.v.new_empty(0)

    def finish(
        self,
        work: _Inputs,
        inside: Tensor,  # noqa: ARG002  empty
        initial: Tensor | None,
        grid: SpanTable,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Keeps the states that entered segments."""
        out, final, entering = forward(*work, grid.table, initial if grid.continues else None)
        return out, final, (entering,)

    def begin_backward(
        self,
        inputs: tuple[Tensor, ...],
        kept: tuple[Tensor, ...],
        d_out: Tensor,
        grid: SpanTable,  # noqa: ARG002
    ) -> _Backward:
        """Nothing yet."""
        return _Backward(_Inputs.of(inputs), kept[0], d_out)

    def cosummary(self, work: _Backward, grid: SpanTable) -> Tensor:
        """``[h, k, v]``."""
        d_state = cosummary(work.inputs.q, work.inputs.decay, work.d_out, grid.table)
        return d_state if grid.continues else torch.zeros_like(d_state)

    def finish_backward(
        self, work: _Backward, d_final: Tensor | None, grid: SpanTable
    ) -> tuple[list[Tensor], Tensor]:
        """Of ``q, k, v, decay``."""
        inputs, entering, d_out = work
        *of_inputs, d_initial = backward(*inputs, d_out, grid.table, entering, d_final)
        return of_inputs, d_initial if grid.continues else torch.zeros_like(d_initial)


_TORCH = ScalarDecay()
