"""The non-linearities of the MLP, keeping for the backward only what cannot be recomputed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import relu, silu


def relu2(x: Tensor) -> Tensor:
    """``relu(x)²`` (So et al. 2021, arXiv 2109.08668)."""
    return relu(x).square()


def swiglu(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` for ``gate_up [t, 2 h]``, gate first (Shazeer 2020, arXiv 2002.05202)."""
    if torch.compiler.is_compiling():  # which chooses itself what is kept
        gate, up = gate_up.chunk(2, -1)
        return silu(gate) * up
    return _SwiGlu.apply(gate_up)  # type: ignore[return-value]


class _SwiGlu(torch.autograd.Function):
    """Saves its input alone: half of what autograd would keep."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, -1)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate_up = ctx.saved_tensors[0]
        gate, up = gate_up.chunk(2, -1)
        d_gate_up = torch.empty_like(gate_up)
        d_gate, d_up = d_gate_up.chunk(2, -1)
        torch.ops.aten.silu_backward(d_out * up, gate, grad_input=d_gate)
        torch.mul(d_out, silu(gate), out=d_up)
        return d_gate_up
