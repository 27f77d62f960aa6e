"""RMSNorm, plain and with the gates of Mamba-2 and Gated DeltaNet.

Means of squares are computed in at least fp32; gates, skips and the weight behind a gate multiply
in the dtype of the activations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch.nn.functional import silu

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.ops.kernel import Skip


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """``x / sqrt(mean(x²) + eps) * weight`` over the last dimension; ``[..., d]`` in and out."""
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = None if weight is None else weight.to(precise.dtype)
    return F.rms_norm(precise, x.shape[-1:], scale, eps).to(x.dtype)


def add_norm(x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x + added``, and ``rms_norm`` of it: the residual stream, and what the next part reads."""
    stream = x if added is None else x + added
    return stream, rms_norm(stream, weight, eps)


def l2_norm(x: Tensor, scale: float = 1.0, eps: float = 1e-6) -> Tensor:
    """``scale * x / sqrt(sum(x²) + eps)`` over the last dimension, the key norm of Gated DeltaNet.

    In at least fp32, which the recurrence computes in.
    """
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    y = F.rms_norm(precise, x.shape[-1:], None, eps / x.shape[-1]) * x.shape[-1] ** -0.5
    return y if scale == 1.0 else y * scale


def norm_then_gate(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``rms_norm(x) * weight * silu(gate)``: ``x, gate [t, h, d], weight [d] -> [t, h, d]``."""
    return rms_norm(x, weight, eps) * silu(gate)


def gate_then_norm(
    x: Tensor, gate: Tensor, weight: Tensor, eps: float, skip: Skip | None = None
) -> Tensor:
    """``rms_norm(x * silu(gate)) * weight``: ``x, gate [t, g, d], weight [g * d] -> [t, g, d]``.

    With ``skip``, ``x + scale * u`` takes the place of ``x``.
    """
    x = x if skip is None else add_skip(x, skip)
    y = rms_norm(x * silu(gate), None, eps)
    return y * weight.view(y.shape[1:]).to(y.dtype)


def add_skip(x: Tensor, skip: Skip) -> Tensor:
    """``x + scale * u``: ``x [t, g, d]``."""
    u, scale = skip
    parts, added = (y.flatten(1).unflatten(1, (len(scale), -1)) for y in (x, u))
    return torch.addcmul(parts, added, scale[:, None].to(u.dtype)).view(x.shape)
