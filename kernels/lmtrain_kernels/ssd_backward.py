"""Gradients of the scalar-decay recurrence: a walk back in time, then all tiles by themselves.

The first gives the gradients of values and of states. With states and their gradients at hand every
tile is independent, and the heads that share keys and queries sum the gradients of these in
registers: what they share is multiplied once for all of them.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
import triton.language as tl

from lmtrain_kernels.dots import add_dot, dot
from lmtrain_kernels.ssd_reverse import walk_back
from lmtrain_kernels.ssd_segments import pass_states
from lmtrain_kernels.ssd_tiles import (
    Shapes,
    cumulate,
    load_rows,
    power_of_two,
    state_mask,
    store_rows,
)
from lmtrain_kernels.tuned import multiprocessors, tuned

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain_kernels.table import ChunkTable

MULTIPROCESSORS_ELSEWHERE = 132
"""Of what is no card: those of an H100."""
LEAST_SHARE = 4
"""Heads of a group that a program sums before partial sums may go to memory."""


class Gradients(NamedTuple):
    """What the backward pass gives, each in the dtype of its input; ``initial`` fp32."""

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor
    initial: Tensor


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    d_out: Tensor,
    table: ChunkTable,
    entering: Tensor,
    leaving: Tensor,
) -> Gradients:
    """Gradients of all inputs, from ``d_out [t, h, vd]``.

    And from those of the states that leave segments, ``leaving`` of ``enter_segments`` in reverse;
    the other inputs as ``forward`` got them.
    """
    shapes = Shapes.of(k, v, decay, table)
    q, k, v, decay, d_out = (x.contiguous() for x in (q, k, v, decay, d_out.to(v.dtype)))
    launch = tuned("ssd_gradients", v.device, **shapes.launch_key(v.dtype))
    tile = launch["TILE"] = min(launch["TILE"], table.size)
    states = pass_states(k, v, decay, table, entering, tile)
    back = walk_back(q, k, v, decay, d_out, table, leaving, tile)

    tiles = len(states)
    splits = _splits(tiles * shapes.groups, shapes.heads // shapes.groups, v.device)
    partial = q.dtype if splits == 1 else torch.float32
    d_q, d_k = (x.new_empty(splits, *x.shape, dtype=partial) for x in (q, k))
    d_decay = torch.empty_like(decay, dtype=torch.float32)
    tensors = q, k, v, decay, d_out, states, back.d_states, back.taken, back.given
    _launch((*tensors, d_q, d_k, d_decay, table.chunks), shapes, launch, splits, tiles, table.size)
    d_q, d_k = (_sum(x, q.dtype) for x in (d_q, d_k))
    return Gradients(d_q, d_k, back.d_v, d_decay.to(decay.dtype), back.d_initial)


def _splits(programs: int, shared: int, device: torch.device) -> int:
    """Parts that the heads of a group are cut into, so that all multiprocessors have work."""
    splits, wanted = 1, 3 * multiprocessors(device, MULTIPROCESSORS_ELSEWHERE)
    while programs * splits < wanted and shared % (2 * splits * LEAST_SHARE) == 0:
        splits *= 2
    return splits


def _sum(parts: Tensor, dtype: torch.dtype) -> Tensor:
    return parts[0] if len(parts) == 1 else parts.sum(0).to(dtype)


def _launch(
    tensors: tuple[Tensor, ...],
    shapes: Shapes,
    launch: dict[str, Any],
    splits: int,
    tiles: int,
    size: int,
) -> None:
    """``launch["parts"]`` says which gradients come out of one launch: registers are few."""
    launch["BLOCK"] = min(launch["BLOCK"], power_of_two(shapes.value))
    for part in launch.pop("parts"):
        _gradients[(tiles * shapes.groups * splits,)](
            *tensors, shapes.tokens, splits, shapes.heads // shapes.groups // splits,
            GROUPS=shapes.groups, HEADS=shapes.heads, KEY=shapes.key, VALUE=shapes.value,
            PADDED_KEY=power_of_two(shapes.key), SIZE=size, WANT_Q="q" in part, WANT_K="k" in part,
            BLOCKS=len(tensors[7]), **launch,
        )  # fmt: skip


@triton.jit(do_not_specialize=["num_tokens", "splits", "share"])
def _gradients(
    q,
    k,
    v,
    decay,
    d_out,
    states,
    d_states,
    taken,
    given,
    d_q,
    d_k,
    d_decay,
    chunks,
    num_tokens,
    splits,
    share,
    GROUPS: tl.constexpr,
    HEADS: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    PADDED_KEY: tl.constexpr,
    SIZE: tl.constexpr,
    WANT_Q: tl.constexpr,
    WANT_K: tl.constexpr,
    BLOCKS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One tile, ``share`` heads of one group. Keys go down the rows of all that is between tokens.

    ``dQ, dK`` are kept transposed: they have rows enough for all warps. The decay of token t gets
    the gain of queries from t on, the loss of keys before t, and what passes through the tile.
    """
    split, group = tl.program_id(0) % splits, tl.program_id(0) // splits % GROUPS
    tile = tl.program_id(0) // splits // GROUPS
    chunk = tile // (SIZE // TILE)
    start = tl.load(chunks + 2 * chunk) + tile % (SIZE // TILE) * TILE
    left = tl.minimum(tl.load(chunks + 2 * chunk + 1) - start, TILE)
    if left <= 0:
        return
    start = start.to(tl.int64)

    rows, wide = tl.arange(0, TILE), tl.arange(0, PADDED_KEY)
    at_key = rows[:, None] * (GROUPS * KEY) + wide
    Q = load_rows(q + (start * GROUPS + group) * KEY, at_key, rows, wide, left, KEY, PADDED_KEY)
    if WANT_Q:
        dQ = tl.zeros([PADDED_KEY, TILE], tl.float32)
    if WANT_K:
        dK = tl.zeros([PADDED_KEY, TILE], tl.float32)
    dQK = tl.zeros([TILE, TILE], tl.float32)

    blocks: tl.constexpr = (VALUE + BLOCK - 1) // BLOCK
    d_log = tl.zeros([TILE], tl.float32)
    for done in range(0, share * blocks):
        block = done % blocks
        head = group * (HEADS // GROUPS) + split * share
        head += tl.minimum(done // blocks, num_tokens + HEADS)  # itself: see ``nearest``
        row = start * HEADS + head
        columns = block * BLOCK + tl.arange(0, BLOCK)
        at_value = row * VALUE + rows[:, None] * (HEADS * VALUE) + columns
        at_state = (tile.to(tl.int64) * HEADS + head) * KEY * VALUE
        at_state += wide[:, None] * VALUE + columns
        in_state = state_mask(wide, columns, KEY, VALUE, PADDED_KEY, BLOCK)

        total, whole = cumulate(decay + row, rows, left, HEADS)
        V = load_rows(v, at_value, rows, columns, left, VALUE, BLOCK)
        dO = load_rows(d_out, at_value, rows, columns, left, VALUE, BLOCK)
        between = tl.exp2(tl.minimum(total[None, :] - total[:, None], 0.0))
        dQK += tl.where(rows[:, None] <= rows[None, :], dot(V, tl.trans(dO)) * between, 0.0)
        dS = tl.load(d_states + at_state, mask=in_state, other=0.0)
        if WANT_K:
            V_out = (V * tl.exp2(whole - total)[:, None]).to(V.dtype)
            dK = add_dot(dK, dS, tl.trans(V_out))
        if WANT_Q:
            S = tl.load(states + at_state, mask=in_state, other=0.0)
            dO_in = (dO * tl.exp2(total)[:, None]).to(dO.dtype)
            dQ = add_dot(dQ, S, tl.trans(dO_in))
            gain, loss = tl.sum(dot(Q, S) * dO, 1) * tl.exp2(total), tl.zeros([TILE], tl.float32)
            through = tl.sum(S.to(tl.float32) * dS.to(tl.float32)) * tl.exp2(whole)
            at = head.to(tl.int64) * num_tokens + start + rows
            known = (rows < left) & (block == 0)
            for _ in tl.static_range(BLOCKS):
                gain += tl.load(taken + at, mask=known, other=0.0)
                loss += tl.load(given + at - 1, mask=known & (rows > 0), other=0.0)
                at += num_tokens.to(tl.int64) * HEADS
            d_log = tl.where(block == 0, 0.0, d_log) + through
            # what queries from here on gain, and what keys before lose (read one row later)
            d_log += tl.cumsum(gain, 0, reverse=True) + tl.cumsum(loss, 0)
            tl.store(d_decay + row + rows * HEADS, d_log, mask=rows < left)

    key_row = ((split.to(tl.int64) * num_tokens + start) * GROUPS + group) * KEY
    if WANT_Q:
        K = load_rows(k + (start * GROUPS + group) * KEY, at_key, rows, wide, left, KEY, PADDED_KEY)
        dQ = add_dot(dQ, tl.trans(K), dQK.to(K.dtype))
        store_rows(d_q + key_row, at_key, rows, wide, left, tl.trans(dQ), KEY, PADDED_KEY)
    if WANT_K:
        dK = add_dot(dK, tl.trans(Q), tl.trans(dQK).to(Q.dtype))
        store_rows(d_k + key_row, at_key, rows, wide, left, tl.trans(dK), KEY, PADDED_KEY)
