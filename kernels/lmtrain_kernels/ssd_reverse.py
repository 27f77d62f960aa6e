"""Gradients of values and states, backward in time: one program walks a segment.

What the outputs ask of earlier values obeys the recurrence of the outputs with time reversed, and
keys and queries exchanged: ``dS <- e^(g_t) (dS + q_t d_out_t^T)``.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl

from lmtrain_kernels.dots import add_dot, dot, parts
from lmtrain_kernels.ssd_tiles import (
    Shapes,
    cumulate,
    load_rows,
    nearest,
    power_of_two,
    state_mask,
    store_rows,
)
from lmtrain_kernels.tuned import tuned

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain_kernels.table import ChunkTable


class Reversed(NamedTuple):
    """What the walk backward in time gives."""

    d_v: Tensor
    """``[t, h, vd]``, dtype of ``v``."""
    d_states: Tensor
    """``[n * size / tile, h, kd, vd]``, dtype of ``v``: of the state that leaves each tile."""
    d_initial: Tensor
    """``[h, kd, vd]`` fp32."""
    taken: Tensor
    """``[blocks, h, t]`` fp32: what a token takes within its tile, less what it gives there."""
    given: Tensor
    """``[blocks, h, t]`` fp32: what a token gives to what comes after its tile."""


def walk_back(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    d_out: Tensor,
    table: ChunkTable,
    leaving: Tensor,
    tile: int,
) -> Reversed:
    """From the gradients ``leaving [m, h, kd, vd]`` of ``enter_segments`` in reverse.

    The two terms of the decay's gradient are sums over columns of the state: each of the ``blocks``
    of columns that programs take gives its part.
    """
    shapes = Shapes.of(k, v, decay, table)
    launch = tuned("ssd_reverse", v.device, **shapes.launch_key(v.dtype))
    launch["BLOCK"] = min(launch["BLOCK"], power_of_two(shapes.value))
    segments, blocks = len(table.segments), parts(shapes.value, launch["BLOCK"])
    size = shapes.heads, shapes.key, shapes.value
    result = Reversed(
        torch.empty_like(v),
        v.new_empty(len(table.chunks) * (table.size // tile), *size),
        v.new_empty(size, dtype=torch.float32),
        v.new_empty(blocks, shapes.heads, shapes.tokens, dtype=torch.float32),
        v.new_empty(blocks, shapes.heads, shapes.tokens, dtype=torch.float32),
    )
    _walk_back[(segments * shapes.heads, blocks)](
        *(q, k, v, decay, d_out, leaving, *result, table.chunks, table.segments),
        *(0 if table.cut else table.last, len(leaving), shapes.tokens),
        GROUPS=shapes.groups, HEADS=shapes.heads, KEY=shapes.key, VALUE=shapes.value,
        PADDED_KEY=power_of_two(shapes.key), SIZE=table.size, TILE=tile, **launch,
    )  # fmt: skip
    return result


@triton.jit(do_not_specialize=["from_segment", "leaves", "num_tokens"])
def _walk_back(
    q,
    k,
    v,
    decay,
    d_out,
    leaving,
    d_v,
    d_states,
    d_initial,
    taken,
    given,
    chunks,
    segments,
    from_segment,
    leaves,
    num_tokens,
    GROUPS: tl.constexpr,
    HEADS: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    PADDED_KEY: tl.constexpr,
    SIZE: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One head, ``BLOCK`` columns of its state, one segment. Keys go down the rows of scores."""
    segment, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    group = head // (HEADS // GROUPS)
    first, last = tl.load(segments + 2 * segment), tl.load(segments + 2 * segment + 1)
    start, stop = tl.load(chunks + 2 * first), tl.load(chunks + 2 * last - 1)

    rows, wide = tl.arange(0, TILE), tl.arange(0, PADDED_KEY)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at_state = wide[:, None] * VALUE + columns
    in_state = state_mask(wide, columns, KEY, VALUE, PADDED_KEY, BLOCK)
    place = segment - from_segment
    dS = tl.zeros([PADDED_KEY, BLOCK], tl.float32)
    if (place >= 0) & (place < leaves):
        leaving += (place.to(tl.int64) * HEADS + head) * KEY * VALUE
        dS = tl.load(leaving + at_state, mask=in_state, other=0.0)

    past = rows[:, None] <= rows[None, :]
    tiles = (last - first) * (SIZE // TILE)
    d_states += (first.to(tl.int64) * (SIZE // TILE) * HEADS + head) * KEY * VALUE
    for done in range(0, tiles):
        tile = tl.minimum(tiles - 1 - done, num_tokens + SIZE)  # itself: see ``nearest``
        token = start + tile * TILE
        left = tl.minimum(stop - token, TILE)  # none in the last tiles of a short chunk
        key_row = (token.to(tl.int64) * GROUPS + group) * KEY
        row = token.to(tl.int64) * HEADS + head
        column = (tl.program_id(1) * HEADS + head).to(tl.int64) * num_tokens + token
        near = nearest(rows, left)[:, None]
        at_key = near * (GROUPS * KEY) + wide
        at_value = near * (HEADS * VALUE) + columns
        at_tile = tile.to(tl.int64) * (HEADS * KEY * VALUE)
        tl.store(d_states + at_tile + at_state, dS.to(d_states.dtype.element_ty), mask=in_state)
        Q = load_rows(q + key_row, at_key, rows, wide, left, KEY, PADDED_KEY)
        K = load_rows(k + key_row, at_key, rows, wide, left, KEY, PADDED_KEY)
        total, whole = cumulate(decay + row, rows, left, HEADS)

        V = load_rows(v + row * VALUE, at_value, rows, columns, left, VALUE, BLOCK)
        dV = dot(K, dS.to(K.dtype)) * tl.exp2(whole - total)[:, None]
        tl.store(given + column + rows, tl.sum(dV * V, 1), mask=rows < left)
        P = dot(K, tl.trans(Q))
        P *= tl.exp2(tl.minimum(total[None, :] - total[:, None], 0.0))
        P = tl.where(past, P, 0.0)
        dO = load_rows(d_out + row * VALUE, at_value, rows, columns, left, VALUE, BLOCK)
        M = dot(V, tl.trans(dO)) * P
        M = tl.where(rows[:, None] < rows[None, :], M, 0.0)  # what a token gives itself cancels
        tl.store(taken + column + rows, tl.sum(M, 0) - tl.sum(M, 1), mask=rows < left)
        dV = add_dot(dV, P.to(dO.dtype), dO)
        store_rows(d_v + row * VALUE, at_value, rows, columns, left, dV, VALUE, BLOCK)
        dO_in = (dO * tl.exp2(total)[:, None]).to(dO.dtype)
        dS = add_dot(dS * tl.exp2(whole), tl.trans(Q), dO_in)
    if segment == 0:
        tl.store(d_initial + head * KEY * VALUE + at_state, dS, mask=in_state)
