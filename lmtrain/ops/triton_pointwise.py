"""The short convolution, gates, norms, SwiGLU and rotary positions by Triton kernels.

Where torch.compile makes code of what lies between kernels, gates, norms of the stream, SwiGLU and
rotary positions are torch's: they fuse with what is around them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lmtrain.ops import activation, norm
from lmtrain.ops import gates as steps
from lmtrain.ops import rotary as positions
from lmtrain_kernels import add_norm as streams
from lmtrain_kernels import gated_norm as norms
from lmtrain_kernels import gates
from lmtrain_kernels import l2_norm as heads
from lmtrain_kernels import rotary as turns
from lmtrain_kernels import short_conv as convolutions
from lmtrain_kernels import swiglu as units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lmtrain.layout import SequenceLayout
    from lmtrain.ops.kernel import Skip


def short_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    widths: Sequence[int],
    *,
    layout: SequenceLayout,
) -> tuple[Tensor, ...]:
    """As ``ops.conv.short_conv``; at most 8 taps and three parts, each contiguous."""
    return convolutions.short_conv(x, weight, bias, layout.derive(_position), widths=widths)


def delta_gates(
    dt: Tensor, beta: Tensor, bias: Tensor, A_log: Tensor, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """As ``ops.gates.delta_gates``, in fp32."""
    by = steps if torch.compiler.is_compiling() else gates
    return by.delta_gates(dt, beta, bias, A_log, scale)


def discretize(u: Tensor, dt: Tensor, bias: Tensor, A_log: Tensor) -> tuple[Tensor, Tensor]:
    """As ``ops.gates.discretize``, decays in fp32."""
    by = steps if torch.compiler.is_compiling() else gates
    return by.discretize(u, dt, bias, A_log)


def l2_norm(x: Tensor, scale: float = 1.0) -> Tensor:
    """As ``ops.norm.l2_norm``, in the dtype of ``x``."""
    return heads.l2_norm(x, scale)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As ``ops.norm.rms_norm``."""
    by = norm if torch.compiler.is_compiling() else norms
    return by.rms_norm(x, weight, eps)


def add_norm(x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As ``ops.norm.add_norm``."""
    by = norm if torch.compiler.is_compiling() else streams
    return by.add_norm(x, added, weight, eps)


def swiglu(gate_up: Tensor) -> Tensor:
    """As ``ops.activation.swiglu``."""
    by = activation if torch.compiler.is_compiling() else units
    return by.swiglu(gate_up)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As ``ops.rotary.rotate``."""
    if torch.compiler.is_compiling():
        return positions.rotate(x, cos, sin)
    return turns.rotary(x, cos, sin)


def norm_then_gate(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As ``ops.norm.norm_then_gate``."""
    return norms.gated_norm(x, gate, weight, eps, norm_before_gate=True)


def gate_then_norm(
    x: Tensor, gate: Tensor, weight: Tensor, eps: float, skip: Skip | None = None
) -> Tensor:
    """As ``ops.norm.gate_then_norm``."""
    return norms.gated_norm(x, gate, weight, eps, norm_before_gate=False, skip=skip)


def _position(layout: SequenceLayout) -> Tensor:
    """``[t]`` int32: offset of each token in its document."""
    return layout.position.to(torch.int32)
