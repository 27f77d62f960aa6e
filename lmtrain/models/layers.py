"""The parts that do not move information between tokens: projections, norms, the MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import nn

from lmtrain.models.config import MlpKind
from lmtrain.ops.activation import relu2
from lmtrain.ops.backend import TORCH
from lmtrain.ops.kernel import Width

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.models.config import MlpConfig, NormConfig
    from lmtrain.ops.backend import Operations


class Linear(nn.Module):
    """``x @ weight.T`` without bias, computed in the dtype of ``x``.

    The weight stays in its own precision; mixed precision is this cast and nothing else.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., inputs] -> [..., outputs]``."""
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """RMSNorm with a learned scale, ``weight`` or ``1 + weight``."""

    def __init__(self, width: int, *, eps: float, zero_centered: bool = False) -> None:
        super().__init__()
        self.width, self.eps, self.zero_centered = width, eps, zero_centered
        self.weight = nn.Parameter(torch.empty(width))
        self.use(TORCH)

    @classmethod
    def of(cls, width: int, config: NormConfig) -> Self:
        """The norm that a model config asks for."""
        return cls(width, eps=config.eps, zero_centered=config.zero_centered)

    def use(self, operations: Operations) -> None:
        """Compute with these operations."""
        self.rms_norm = operations.rms_norm

    def sizes(self) -> Width:
        """What its operation is called with."""
        return Width("rms_norm", self.width)

    def forward(self, x: Tensor) -> Tensor:
        """``[t, width]`` or ``[t, heads, width]`` in and out."""
        return self.rms_norm(x, self.scale, self.eps)

    @property
    def scale(self) -> Tensor:
        """``[width]``: what a row of mean square 1 is multiplied by."""
        return 1 + self.weight if self.zero_centered else self.weight


class StreamNorm(RMSNorm):
    """The RMSNorm before a part of a block, and the addition before that: one pass over memory."""

    def use(self, operations: Operations) -> None:
        """Compute with these operations."""
        self.add_norm = operations.add_norm

    def sizes(self) -> Width:
        """What its operation is called with."""
        return Width("add_norm", self.width)

    def forward(self, x: Tensor, added: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The residual stream ``x + added [t, width]``, and its norm, which the part reads."""
        return self.add_norm(x, added, self.scale, self.eps)


class Mlp(nn.Module):
    """The feed-forward half of a block."""

    def __init__(self, config: MlpConfig, d_model: int) -> None:
        super().__init__()
        hidden = config.width(d_model)
        self.hidden, self.gated = hidden, config.kind is MlpKind.swiglu
        self.in_proj = Linear(d_model, 2 * hidden if self.gated else hidden)
        self.out_proj = Linear(hidden, d_model)
        self.use(TORCH)

    def use(self, operations: Operations) -> None:
        """Compute with these operations."""
        self.activation = operations.swiglu if self.gated else relu2

    def sizes(self) -> Width | None:
        """What its operation is called with; ``relu2`` is torch's own."""
        return Width("swiglu", self.hidden) if self.gated else None

    def forward(self, x: Tensor) -> Tensor:
        """``[t, d]`` in and out."""
        return self.out_proj(self.activation(self.in_proj(x)))
