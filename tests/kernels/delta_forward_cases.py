"""What is compiled ahead of time of the forward pass of the gated delta rule."""

from __future__ import annotations

import torch

from lmtrain_kernels import delta_outputs, delta_prepare, delta_states
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


def states() -> None:
    """Whole documents and cut ones, and the summary of a span."""
    whole, cut = (ChunkTable.build([1200, 100], 64, segment=n) for n in (None, 8))
    for dtype in (torch.bfloat16, torch.float32):
        for key, value in SIZES:
            k, u = torch.zeros(1300, 2, key, dtype=dtype), torch.zeros(1300, 4, value, dtype=dtype)
            total, inverse, w = torch.zeros(1300, 4), u.new_zeros(1300, 4, 64), k.repeat(1, 2, 1)
            prepared = delta_prepare.Prepared(total, inverse, w, u)
            initial = torch.zeros(4, key, value)
            delta_states.pass_states(k, prepared, whole, None)
            delta_states.pass_states(k, prepared, cut, initial)
            delta_states.span_state(k, prepared, cut, alive=True)


def outputs() -> None:
    """Every size of heads, both dtypes."""
    table = ChunkTable.build([200], 64)
    for dtype in (torch.bfloat16, torch.float32):
        for key, value in SIZES:
            q, written = torch.zeros(200, 2, key, dtype=dtype), torch.zeros(200, 4, value).to(dtype)
            states = q.new_zeros(4, 4, key, value)
            delta_outputs.outputs(q, q, torch.zeros(200, 4), states, written, table)
