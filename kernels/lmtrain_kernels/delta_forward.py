"""Gated delta rule, forward: outputs and final state, with nothing kept that memory must move.

Yang et al. 2025 (arXiv 2412.06464), section 3.3. Where only outputs are wanted, one walk over the
chunks makes them beside the state, and ``T (beta (V - e^G K S))`` needs neither ``u`` nor ``w``:

    written = T (beta (V - e^G K S))     out = e^G Q S + P written
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl

from lmtrain_kernels.delta_outputs import outputs
from lmtrain_kernels.delta_prepare import Prepared, check, prepare, recompute, solve
from lmtrain_kernels.delta_states import (
    enter_segments,
    no_summary,
    pass_states,
    segment_bounds,
    summarize_segments,
)
from lmtrain_kernels.dots import add_dot, dot, load_numbers, load_tile, padded, parts, store_tile
from lmtrain_kernels.tuned import tuned

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain_kernels.table import ChunkTable

WIDEST = 128
"""Keys: wider states leave the walk no registers for outputs."""


class Forward(NamedTuple):
    """Outputs, and what a backward pass needs besides the inputs."""

    out: Tensor
    """``[t, h, v]`` in the dtype of values."""
    final: Tensor
    """``[h, k, v]`` fp32: the state after the last document."""
    total: Tensor
    """``[t, h]`` fp32, of ``prepare``."""
    inverse: Tensor
    """``[t, h, 64]``, of ``prepare``."""
    transition: Tensor
    """``[m, h, k, k]`` fp32, of ``summarize_segments``."""
    entering: Tensor
    """``[m, h, k, v]`` fp32, of ``enter_segments``."""


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    beta: Tensor,
    table: ChunkTable,
    initial: Tensor | None = None,
) -> Forward:
    """In one walk for 16-bit keys of usual width, else phase by phase.

    Args:
        q: ``[t, g, k]`` scaled queries.
        k: ``[t, g, k]`` keys of norm <= 1.
        v: ``[t, h, v]`` values, in the dtype of keys; head i has key head ``i // (h / g)``.
        decay: ``[t, h]`` fp32 log decays (<= 0).
        beta: ``[t, h]`` fp32 in [0, 2].
        table: chunks of 64 tokens.
        initial: ``[h, k, v]`` fp32 that enters the first document; None for zero.

    Raises:
        ValueError: as ``prepare``.
    """
    if k.dtype == torch.float32 or k.shape[2] > WIDEST:
        prepared = prepare(k, v, decay, beta, table)
        summary = summarize_segments(k, prepared, table)
        entering = enter_segments(summary, table, initial)
        passed = pass_states(k, prepared, table, entering)
        out = outputs(q, k, prepared.total, passed.states, passed.written, table)
        return Forward(out, passed.final, *prepared[:2], summary.transition, entering)
    check(k, v, decay, beta, table)
    total, inverse, scores = solve(q, k, decay, beta, table)
    summary = no_summary(k, v)
    if table.cut:
        prepared = Prepared(total, inverse, *recompute(k, v, beta, total, inverse, table))
        summary = summarize_segments(k, prepared, table)
    entering = enter_segments(summary, table, initial)
    walked = walk(q, k, v, beta, total, inverse, scores, table, entering)
    return Forward(*walked, total, inverse, summary.transition, entering)


def walk(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    total: Tensor,
    inverse: Tensor,
    scores: Tensor,
    table: ChunkTable,
    entering: Tensor,
) -> tuple[Tensor, Tensor]:
    """``out`` and ``final``: every segment from the state that enters it.

    ``entering [m, h, k, v]`` enters the first m segments, zero the others.
    """
    (groups, key), (heads, value) = k.shape[1:], v.shape[1:]
    out, final = torch.empty_like(v), k.new_empty(heads, key, value, dtype=torch.float32)
    launch = tuned("delta_forward", k.device, key=padded(key))
    block = min(launch.pop("BLOCK"), padded(value))
    _walk_outputs[(len(table.segments) * heads * parts(value, block),)](
        *(q, k, v, beta, total, inverse, scores, table.chunks, table.segments),
        *(entering, len(entering), table.last, out, final),
        HEADS=heads,
        SHARED=heads // groups,
        KEY=key,
        VALUE=value,
        C=table.size,
        TILE=padded(key),
        BLOCK=block,
        **launch,
    )
    return out, final


@triton.jit(do_not_specialize=["entered", "last"])
def _walk_outputs(
    q,
    k,
    v,
    beta,
    total,
    inverse,
    scores,
    chunks,
    segments,
    entering,
    entered,
    last,
    out,
    final,
    HEADS: tl.constexpr,
    SHARED: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    C: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Some columns of the state and the outputs of one head through one segment."""
    BLOCKS: tl.constexpr = (VALUE + BLOCK - 1) // BLOCK
    GROUPS: tl.constexpr = HEADS // SHARED
    place, column = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS * BLOCK
    segment, head = place // HEADS, place % HEADS
    _, start, stop, count = segment_bounds(chunks, segments, segment)
    kept = tl.where(segment < entered, KEY, 0)
    at = entering + place.to(tl.int64) * KEY * VALUE
    S = load_tile(at, kept, column, VALUE, VALUE, TILE, BLOCK)
    for n in tl.range(count):
        token, rest = (start + n * C) * HEADS + head, stop - start - n * C
        at_key = ((start + n * C) * GROUPS + head // SHARED) * KEY
        K = load_tile(k + at_key, rest, 0, GROUPS * KEY, KEY, C, TILE)
        Q = load_tile(q + at_key, rest, 0, GROUPS * KEY, KEY, C, TILE)
        T = load_tile(inverse + token * C, rest, 0, HEADS * C, C, C, C)
        P = load_tile(scores + token * C, rest, 0, HEADS * C, C, C, C)
        V = load_tile(v + token * VALUE, rest, column, HEADS * VALUE, VALUE, C, BLOCK)
        G = load_numbers(total + token, rest, HEADS, C)
        b = load_numbers(beta + token, rest, HEADS, C)
        leaves = tl.load(total + token + (tl.minimum(rest, C) - 1) * HEADS)
        inflow = tl.exp(G)[:, None]

        before = S.to(K.dtype)
        O = inflow * dot(Q, before)
        X = b[:, None] * (V - inflow * dot(K, before))
        X = dot(T, X.to(K.dtype))
        O = add_dot(O, P, X.to(K.dtype))
        store_tile(out + token * VALUE, O, rest, column, HEADS * VALUE, VALUE, C, BLOCK)
        X = tl.exp(leaves - G)[:, None] * X
        S = add_dot(tl.exp(leaves) * S, tl.trans(K), X.to(K.dtype))
    if segment == last:
        store_tile(final + head * KEY * VALUE, S, KEY, column, VALUE, VALUE, TILE, BLOCK)
