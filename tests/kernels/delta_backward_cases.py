"""Calls for ahead-of-time compilation of the gated delta rule's backward kernels."""

from __future__ import annotations

import torch

from lmtrain_kernels.delta_backward import (
    begin_backward,
    cosummarize_segments,
    leave_segments,
    pass_d_states,
)
from lmtrain_kernels.delta_gradients import gradients
from lmtrain_kernels.delta_prepare import Prepared
from lmtrain_kernels.table import ChunkTable

TENSOR_CORES = frozenset(
    ["_outputs_kernel", "_states_kernel", "_segments_kernel", "_pairs_kernel", "_gradients_kernel"]
)


def bf16() -> None:
    """The usual head sizes, and wide ones."""
    for key, value in [(64, 64), (128, 128), (256, 256)]:
        call(torch.bfloat16, key, value)


def fp32() -> None:
    """Which uses no tensor cores but for the states of segments."""
    call(torch.float32, 128, 128)
    call(torch.float32, 64, 64, cut=False)
    call(torch.float32, 8, 8)  # which products of tiles have to be padded for


def call(dtype: torch.dtype, key: int, value: int, *, cut: bool = True) -> None:
    """Every kernel once, those of segments if one is ``cut``; no number means anything."""
    t, heads, groups = 256, 4, 2
    chunks = ChunkTable.build([t], 64, segment=2 if cut else None)
    n, m = len(chunks.chunks), len(chunks.linked)
    q, k = (torch.zeros(t, groups, key, dtype=dtype) for _ in range(2))
    v, d_out = (torch.zeros(t, heads, value, dtype=dtype) for _ in range(2))
    total, beta = torch.zeros(t, heads), torch.zeros(t, heads)
    inverse, w = (torch.zeros(t, heads, width, dtype=dtype) for width in (64, key))
    prepared = Prepared(total, inverse, w, v)
    states = torch.zeros(n, heads, key, value, dtype=dtype)
    d_final, transition = torch.zeros(heads, key, value), torch.zeros(m, heads, key, key)
    d_written = begin_backward(q, k, total, d_out, chunks)
    local = cosummarize_segments(q, k, prepared, d_out, d_written, chunks)
    leaving = leave_segments(transition, local, chunks, d_final)
    d_states, d_written, _ = pass_d_states(q, k, prepared, d_out, d_written, chunks, leaving)
    gradients(q, k, v, beta, prepared, states, v, d_out, d_written, d_states, chunks)
