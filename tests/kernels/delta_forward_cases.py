"""What is compiled ahead of time of the forward pass of the gated delta rule."""

from __future__ import annotations

import torch

from lmtrain_kernels import delta_prepare
from lmtrain_kernels.table import ChunkTable

SIZES = [(64, 64), (128, 128), (256, 64), (64, 256)]


def prepare() -> None:
    """Both modes, every size of heads, both dtypes."""
    table = ChunkTable.build([200], 64)
    for dtype in (torch.bfloat16, torch.float32):
        for key, value in SIZES:
            k, v = torch.zeros(200, 2, key, dtype=dtype), torch.zeros(200, 4, value, dtype=dtype)
            decay, beta = torch.zeros(200, 4), torch.zeros(200, 4)
            found = delta_prepare.prepare(k, v, decay, beta, table)
            delta_prepare.recompute(k, v, beta, found.total, found.inverse, table)
