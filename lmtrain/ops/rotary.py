"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), pairs ``(i, i + d/2)``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout


def angles(layout: SequenceLayout, *, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """``[t, 1, width / 2]`` cosines and sines, by the position of each token in its document."""
    return layout.derive(_tables, width, theta)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each head of ``x [t, h, d]`` by its ``angles``; computed in at least fp32."""
    a, b = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def _tables(layout: SequenceLayout, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """In fp32 from fp64 angles: exact at any position."""
    exponent = torch.arange(0, width, 2, dtype=torch.float64, device=layout.device) / width
    angle = layout.position[:, None].double() * theta**-exponent
    return angle.cos().float()[:, None], angle.sin().float()[:, None]
