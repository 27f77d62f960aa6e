"""Gated delta rule: the outputs, once the states between chunks are known.

Yang et al. 2025 (arXiv 2412.06464), section 3.3; with ``P = tril(Q K^T * e^(G_i - G_j))``,

    out = e^G Q S + P written
"""

# pyright: reportArgumentType=false, reportIndexIssue=false, reportOptionalSubscript=false

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from lmtrain_kernels.dots import (
    add_dot,
    between,
    load_numbers,
    load_tile,
    padded,
    parts,
    store_tile,
)
from lmtrain_kernels.tuned import tuned

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain_kernels.table import ChunkTable


def outputs(
    q: Tensor, k: Tensor, total: Tensor, states: Tensor, written: Tensor, table: ChunkTable
) -> Tensor:
    """``[t, h, v]`` in the dtype of ``written``.

    Args:
        q: ``[t, g, k]`` scaled queries.
        k: ``[t, g, k]`` keys.
        total: ``[t, h]`` fp32 of ``prepare``.
        states: ``[n, h, k, v]`` that enter the chunks.
        written: ``[t, h, v]``.
        table: the chunks of all these.
    """
    (groups, key), (heads, value) = q.shape[1:], written.shape[1:]
    out = torch.empty_like(written)
    launch = tuned("delta_outputs", q.device, dtype=str(q.dtype).removeprefix("torch."))
    block = min(launch.pop("VALUE_BLOCK"), padded(value))
    _outputs[(len(table.chunks) * heads * parts(value, block),)](
        *(q, k, total, states, written, table.chunks, out),
        HEADS=heads,
        SHARED=heads // groups,
        KEY=key,
        VALUE=value,
        C=table.size,
        KEY_BLOCK=min(launch.pop("KEY_BLOCK"), padded(key)),
        VALUE_BLOCK=block,
        **launch,
    )
    return out


@triton.jit
def _outputs(
    q,
    k,
    total,
    states,
    written,
    chunks,
    out,
    HEADS: tl.constexpr,
    SHARED: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    C: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
):
    """Some columns of one chunk of one value head."""
    BLOCKS: tl.constexpr = (VALUE + VALUE_BLOCK - 1) // VALUE_BLOCK
    GROUPS: tl.constexpr = HEADS // SHARED
    place, column = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS * VALUE_BLOCK
    chunk, head = place // HEADS, place % HEADS
    start = tl.load(chunks + 2 * chunk).to(tl.int64)
    count = (tl.load(chunks + 2 * chunk + 1) - start).to(tl.int32)
    token, at_key = start * HEADS + head, (start * GROUPS + head // SHARED) * KEY
    states += place.to(tl.int64) * KEY * VALUE

    scores = tl.zeros((C, C), tl.float32)
    read = tl.zeros((C, VALUE_BLOCK), tl.float32)
    for row in tl.range(0, KEY, KEY_BLOCK):
        Q = load_tile(q + at_key, count, row, GROUPS * KEY, KEY, C, KEY_BLOCK)
        K = load_tile(k + at_key, count, row, GROUPS * KEY, KEY, C, KEY_BLOCK)
        S = load_tile(states + row * VALUE, KEY - row, column, VALUE, VALUE, KEY_BLOCK, VALUE_BLOCK)
        scores = add_dot(scores, Q, tl.trans(K))
        read = add_dot(read, Q, S)
    G = load_numbers(total + token, count, HEADS, C)
    at = token * VALUE
    X = load_tile(written + at, count, column, HEADS * VALUE, VALUE, C, VALUE_BLOCK)
    P = (scores * between(G, C)).to(X.dtype)
    O = add_dot(tl.exp(G)[:, None] * read, P, X)
    store_tile(out + at, O, count, column, HEADS * VALUE, VALUE, C, VALUE_BLOCK)
