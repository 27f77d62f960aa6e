"""Outputs of the scalar-decay recurrence: one program walks a segment, its state in registers."""

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


class Outputs(NamedTuple):
    """What the forward pass gives."""

    out: Tensor
    """``[t, h, vd]``, dtype of ``v``."""
    final: Tensor
    """``[h, kd, vd]`` fp32, after the last document."""


def forward(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, table: ChunkTable, entering: Tensor
) -> Outputs:
    """Outputs ``o_t = S_t^T q_t`` of ``S_t = e^(g_t) S_(t-1) + k_t v_t^T``, and the last state.

    ``q, k [t, g, kd]``, ``v [t, h, vd]``, log decay ``[t, h]``; ``entering [m, h, kd, vd]`` enters
    the first m segments. Raises ValueError for shapes that do not fit (``Shapes.of``).
    """
    shapes = Shapes.of(k, v, decay, table)
    q, k, v, decay = (x.contiguous() for x in (q, k, v, decay))
    out = torch.empty_like(v)
    final = v.new_empty(shapes.heads, shapes.key, shapes.value, dtype=torch.float32)
    launch = tuned("ssd_forward", v.device, **shapes.launch_key(v.dtype))
    launch["BLOCK"] = min(launch["BLOCK"], power_of_two(shapes.value))
    grid = (len(table.segments) * shapes.heads, parts(shapes.value, launch["BLOCK"]))
    _forward[grid](
        q, k, v, decay, out, entering, final, table.chunks, table.segments, len(entering),
        table.last, shapes.tokens,
        GROUPS=shapes.groups, HEADS=shapes.heads, KEY=shapes.key, VALUE=shapes.value,
        PADDED_KEY=power_of_two(shapes.key), **launch,
    )  # fmt: skip
    return Outputs(out, final)


@triton.jit(do_not_specialize=["entered", "last_segment", "num_tokens"])
def _forward(
    q,
    k,
    v,
    decay,
    out,
    entering,
    final,
    chunks,
    segments,
    entered,
    last_segment,
    num_tokens,
    GROUPS: tl.constexpr,
    HEADS: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    PADDED_KEY: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One head, ``BLOCK`` columns of its state, one segment."""
    segment, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    group = head // (HEADS // GROUPS)
    first, last = tl.load(segments + 2 * segment), tl.load(segments + 2 * segment + 1)
    start, stop = tl.load(chunks + 2 * first), tl.load(chunks + 2 * last - 1)

    rows, wide = tl.arange(0, TILE), tl.arange(0, PADDED_KEY)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at_state = wide[:, None] * VALUE + columns[None, :]
    in_state = state_mask(wide, columns, KEY, VALUE, PADDED_KEY, BLOCK)
    entering += (segment * HEADS + head).to(tl.int64) * KEY * VALUE
    S = tl.zeros([PADDED_KEY, BLOCK], tl.float32)
    if segment < entered:
        S = tl.load(entering + at_state, mask=in_state, other=0.0)

    past = rows[:, None] >= rows[None, :]
    for begin in range(start, stop, TILE):
        token = tl.minimum(begin, num_tokens)  # itself: see ``nearest``
        left = tl.minimum(stop - token, TILE)
        key_row = (token.to(tl.int64) * GROUPS + group) * KEY
        row = token.to(tl.int64) * HEADS + head
        near = nearest(rows, left)[:, None]
        at_key = near * (GROUPS * KEY) + wide
        at_value = near * (HEADS * VALUE) + columns
        Q = load_rows(q + key_row, at_key, rows, wide, left, KEY, PADDED_KEY)
        K = load_rows(k + key_row, at_key, rows, wide, left, KEY, PADDED_KEY)
        total, whole = cumulate(decay + row, rows, left, HEADS)

        O = dot(Q, S.to(Q.dtype)) * tl.exp2(total)[:, None]
        P = dot(Q, tl.trans(K))
        P *= tl.exp2(tl.minimum(total[:, None] - total[None, :], 0.0))
        P = tl.where(past, P, 0.0)
        V = load_rows(v + row * VALUE, at_value, rows, columns, left, VALUE, BLOCK)
        O = add_dot(O, P.to(V.dtype), V)
        store_rows(out + row * VALUE, at_value, rows, columns, left, O, VALUE, BLOCK)
        V_out = (V * tl.exp2(whole - total)[:, None]).to(V.dtype)
        S = add_dot(S * tl.exp2(whole), tl.trans(K), V_out)
    if segment == last_segment:
        tl.store(final + head * KEY * VALUE + at_state, S, mask=in_state)
