"""What the projections of recurrent mixers become before the recurrence: decays, betas, steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def delta_gates(
    dt: Tensor, beta: Tensor, bias: Tensor, A_log: Tensor, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """``-e^A_log softplus(dt + bias)`` and ``scale sigmoid(beta)``: ``[t, h]`` in that of ``bias``.

    Yang et al. 2025 (arXiv 2412.06464), section 3.4, with the decay of Mamba-2.
    """
    step = F.softplus(dt.to(bias.dtype) + bias)
    return -A_log.exp() * step, scale * beta.to(bias.dtype).sigmoid()


def discretize(u: Tensor, dt: Tensor, bias: Tensor, A_log: Tensor) -> tuple[Tensor, Tensor]:
    """``step u [t, h, p]`` in the dtype of ``u``, and ``-e^A_log step [t, h]`` in that of ``bias``.

    ``step = softplus(dt + bias)``: Dao and Gu 2024 (arXiv 2405.21060), section 7.
    """
    step = F.softplus(dt.to(bias.dtype) + bias)
    return (u * step[..., None]).to(u.dtype), -A_log.exp() * step
