"""What is compiled ahead of time of the L2 norm."""

from __future__ import annotations

import torch

from lmtrain_kernels.l2_norm import l2_norm


def normalize() -> None:
    """Forward and backward of a slice of a projection."""
    for dtype in (torch.bfloat16, torch.float32):
        for width in (64, 96, 128, 256):
            wide = torch.zeros(40, 6 * width, dtype=dtype, requires_grad=True)
            x = wide[:, : 2 * width].unflatten(1, (2, width))
            l2_norm(x, 0.1).backward(torch.zeros(40, 2, width, dtype=dtype))
