"""Gated delta rule: the state passed from chunk to chunk, and what a segment does to it.

Yang et al. 2025 (arXiv 2412.06464), section 3.3; in a chunk that ``S`` enters,

    written = u - w S     S' = e^(G_c) S + (e^(G_c - G) K)^T written

which is affine in ``S``: a segment is a transition ``[k, k]`` and a state ``[k, v]``, and segments
compose. A long document of few heads is cut into segments whose summaries are made at once, scanned
in order, and walked at once from the states that then enter them.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
import triton.language as tl

from lmtrain_kernels.dots import add_dot, load_numbers, load_tile, padded, parts, piece, store_tile
from lmtrain_kernels.tuned import tuned

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain_kernels.delta_prepare import Prepared
    from lmtrain_kernels.table import ChunkTable


class States(NamedTuple):
    """What the walk over the chunks leaves behind."""

    states: Tensor
    """``[n, h, k, v]`` in the dtype of keys: what enters each chunk."""
    written: Tensor
    """``[t, h, v]`` in the dtype of keys."""
    final: Tensor
    """``[h, k, v]`` fp32: after the last document."""


class Summary(NamedTuple):
    """What segments do to the state that enters them, ``S -> transition S + state``; fp32."""

    transition: Tensor
    """``[m, h, k, k]`` of the linked segments, or ``[h, k, k]`` of a span."""
    state: Tensor
    """``[m, h, k, v]``, or ``[h, k, v]``."""


def pass_states(k: Tensor, prepared: Prepared, table: ChunkTable, entering: Tensor) -> States:
    """Walk every segment from the state that enters it.

    Args:
        k: ``[t, g, k]`` keys.
        prepared: of these keys.
        table: the chunks that they were prepared in.
        entering: ``[m, h, k, v]`` of ``enter_segments``.
    """
    (t, heads, key), value = prepared.w.shape, prepared.u.shape[2]
    states = k.new_empty(len(table.chunks), heads, key, value)
    written = k.new_empty(t, heads, value)
    final = k.new_empty(heads, key, value, dtype=torch.float32)
    launch = _launch("delta_states", k, prepared)
    blocks = parts(value, launch["BLOCK"])
    _walk[(len(table.segments) * heads * blocks,)](
        *(k, prepared.w, prepared.u, prepared.total, table.chunks, table.segments),
        *(entering, len(entering), table.last, states, written, final),
        **launch,
    )
    return States(states, written, final)


def summarize_segments(k: Tensor, prepared: Prepared, table: ChunkTable) -> Summary:
    """What each linked segment does to a state that enters it."""
    if not table.cut:
        return no_summary(k, prepared.u)
    return _summarize(k, prepared, table.chunks, table.linked, through=True)


def no_summary(k: Tensor, v: Tensor) -> Summary:
    """Of the linked segments where no document is cut: none of ``k [t, g, k], v [t, h, v]``."""
    (heads, value), key = v.shape[1:], k.shape[2]
    sizes = (0, heads, key, key), (0, heads, key, value)
    return Summary(*(k.new_empty(size, dtype=torch.float32) for size in sizes))


def enter_segments(summary: Summary, table: ChunkTable, initial: Tensor | None) -> Tensor:
    """``[m, h, k, v]`` fp32: the states that enter the first m segments; zero enters the others.

    ``initial [h, k, v]`` enters the first document. These are the linked segments; where no
    document is cut, the first with an ``initial`` and none without.
    """
    if table.cut:
        edge = None if initial is None else initial.float().contiguous()
        return _scan(*summary, table.documents, edge)[0]
    if initial is None:
        return summary.state
    return initial[None].to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def span_state(
    k: Tensor, prepared: Prepared, table: ChunkTable, summary: Summary, *, alive: bool
) -> Summary:
    """What the last document does to the state that enters it, ``[h, k, k]`` and ``[h, k, v]``.

    The transition is zero if not ``alive``: the span opens a document, so nothing passes it.
    ``summary`` of the linked segments.
    """
    if not table.cut:
        last = table.segments[-1:]
        return Summary(*(x[0] for x in _summarize(k, prepared, table.chunks, last, through=alive)))
    documents, transition = table.documents[-1:], summary.transition
    whole = _scan(*summary, documents, None)[1]
    if not alive:
        return Summary(torch.zeros_like(transition[0]), whole)
    identity = torch.eye(k.shape[2], device=k.device).expand(whole.shape[0], -1, -1)
    return Summary(_scan(transition, None, documents, identity.contiguous())[1], whole)


def _summarize(
    k: Tensor, prepared: Prepared, chunks: Tensor, segments: Tensor, *, through: bool
) -> Summary:
    """Of ``segments [m, 2]``; their transitions are zero, and take no time, if not ``through``."""
    (_, heads, key), value = prepared.w.shape, prepared.u.shape[2]
    state = k.new_empty(len(segments), heads, key, value, dtype=torch.float32)
    new = state.new_empty if through else state.new_zeros
    transition = new(len(segments), heads, key, key)
    launch = _launch("delta_summary", k, prepared)
    wanted = (state, transition) if through else (state,)
    blocks = sum(parts(x.shape[3], launch["BLOCK"]) for x in wanted)
    _summarize_segment[(len(segments) * heads * blocks,)](
        *(k, prepared.w, prepared.u, prepared.total, chunks, segments, state, transition, blocks),
        **launch,
    )
    return Summary(transition, state)


def _scan(
    transition: Tensor, state: Tensor | None, documents: Tensor, initial: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What enters each segment of ``documents [d, 2]``, and what leaves the last, ``[h, k, v]``.

    ``initial`` enters the first of them. Without ``state`` the segments add nothing.
    """
    like = transition if state is None else state
    _, heads, key, value = like.shape
    entering, final = torch.empty_like(like), like.new_empty(heads, key, value)
    launch = tuned("delta_scan", like.device, key=padded(key))
    launch["BLOCK"] = min(launch["BLOCK"], padded(value))
    blocks = parts(value, launch["BLOCK"])
    _scan_segments[(len(documents) * heads * blocks,)](
        *(transition, state, documents, len(documents), initial, entering, final),
        HEADS=heads,
        KEY=key,
        VALUE=value,
        TILE=padded(key),
        **launch,
    )
    return entering, final


def _launch(kernel: str, k: Tensor, prepared: Prepared) -> dict[str, Any]:
    """Constants of a kernel that walks segments."""
    (_, heads, key), value = prepared.w.shape, prepared.u.shape[2]
    dtype = str(k.dtype).removeprefix("torch.")
    launch = tuned(kernel, k.device, dtype=dtype, key=padded(key))
    launch["BLOCK"] = min(launch["BLOCK"], padded(value))
    return launch | {
        "HEADS": heads,
        "SHARED": heads // k.shape[1],
        "KEY": key,
        "VALUE": value,
        "C": prepared.inverse.shape[2],
        "TILE": padded(key),
    }


@triton.jit(do_not_specialize=["entered", "last"])
def _walk(
    k,
    w,
    u,
    total,
    chunks,
    segments,
    entering,
    entered,
    last,
    states,
    written,
    final,
    HEADS: tl.constexpr,
    SHARED: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    C: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    """Some columns of the state of one head through one segment."""
    BLOCKS: tl.constexpr = (VALUE + BLOCK - 1) // BLOCK
    place, column = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS * BLOCK
    segment, head = place // HEADS, place % HEADS
    first, start, stop, count = segment_bounds(chunks, segments, segment)
    kept = tl.where(segment < entered, KEY, 0)
    begin = entering + place.to(tl.int64) * KEY * VALUE
    S = load_tile(begin, kept, column, VALUE, VALUE, TILE, BLOCK)
    for n in tl.range(count):
        at = states + ((first + n) * HEADS + head) * KEY * VALUE
        store_tile(at, S, KEY, column, VALUE, VALUE, TILE, BLOCK)
        token, rest = (start + n * C) * HEADS + head, stop - start - n * C
        U = load_tile(u + token * VALUE, rest, column, HEADS * VALUE, VALUE, C, BLOCK)
        X = U - _read(w, token, rest, S, HEADS, KEY, C, TILE, BLOCK, STEP)
        store_tile(written + token * VALUE, X, rest, column, HEADS * VALUE, VALUE, C, BLOCK)
        S = _write(k, total, token, rest, S, X, HEADS, SHARED, KEY, C, TILE, BLOCK, STEP)
    if segment == last:
        store_tile(final + head * KEY * VALUE, S, KEY, column, VALUE, VALUE, TILE, BLOCK)


@triton.jit(
    do_not_specialize=["blocks"],
    do_not_specialize_on_alignment=["segments"],  # a row of a table: 8 bytes
)
def _summarize_segment(
    k,
    w,
    u,
    total,
    chunks,
    segments,
    state,
    transition,
    blocks,
    HEADS: tl.constexpr,
    SHARED: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    C: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    """Some columns of the state or the transition of one head through one segment.

    The transition is where the identity goes when nothing is written by itself (``u = 0``).
    """
    place, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    segment, head = place // HEADS, place % HEADS
    _, start, stop, count = segment_bounds(chunks, segments, segment)
    VALUES: tl.constexpr = (VALUE + BLOCK - 1) // BLOCK
    column = block * BLOCK
    through = (block - VALUES) * BLOCK
    row = tl.arange(0, TILE)[:, None]
    same = row == through + tl.arange(0, BLOCK)[None, :]
    S = tl.where(same, 1.0, tl.zeros((TILE, BLOCK), tl.float32))
    for n in tl.range(count):
        token, rest = (start + n * C) * HEADS + head, stop - start - n * C
        kept = tl.where(block < VALUES, rest, 0)
        U = load_tile(u + token * VALUE, kept, column, HEADS * VALUE, VALUE, C, BLOCK)
        X = U - _read(w, token, rest, S, HEADS, KEY, C, TILE, BLOCK, STEP)
        S = _write(k, total, token, rest, S, X, HEADS, SHARED, KEY, C, TILE, BLOCK, STEP)
    at = place.to(tl.int64) * KEY
    if block < VALUES:
        store_tile(state + at * VALUE, S, KEY, column, VALUE, VALUE, TILE, BLOCK)
    else:
        store_tile(transition + at * KEY, S, KEY, through, KEY, KEY, TILE, BLOCK)


@triton.jit
def segment_bounds(chunks, segments, segment):
    """First chunk, first token (int64), the token after the last, and how many chunks."""
    first = tl.load(segments + 2 * segment).to(tl.int64)
    last = tl.load(segments + 2 * segment + 1)
    start = tl.load(chunks + 2 * first).to(tl.int64)
    return first, start, tl.load(chunks + 2 * last - 1), last - first


@triton.jit
def _read(
    w,
    token,
    rest,
    S,
    HEADS: tl.constexpr,
    KEY: tl.constexpr,
    C: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    """``w S`` of a chunk."""
    read = tl.zeros((C, BLOCK), tl.float32)
    PARTS: tl.constexpr = (TILE + STEP - 1) // STEP
    KEYS: tl.constexpr = TILE // PARTS
    for part in tl.static_range(PARTS):
        W = load_tile(w + token * KEY, rest, part * KEYS, HEADS * KEY, KEY, C, KEYS)
        read = add_dot(read, W, piece(S, part, PARTS, KEYS, BLOCK).to(W.dtype))
    return read


@triton.jit
def _write(
    k,
    total,
    token,
    rest,
    S,
    X,
    HEADS: tl.constexpr,
    SHARED: tl.constexpr,
    KEY: tl.constexpr,
    C: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    """The state after a chunk in which ``X`` is written to ``S``."""
    G = load_numbers(total + token, rest, HEADS, C)
    last = tl.load(total + token + (tl.minimum(rest, C) - 1) * HEADS)
    GROUPS: tl.constexpr = HEADS // SHARED
    PARTS: tl.constexpr = (C + STEP - 1) // STEP
    TOKENS: tl.constexpr = C // PARTS
    k += (token // HEADS * GROUPS + token % HEADS // SHARED) * KEY
    X = (tl.exp(last - G)[:, None] * X).to(k.dtype.element_ty)
    S *= tl.exp(last)
    for part in tl.static_range(PARTS):
        row = part * TOKENS
        K = load_tile(k + row * GROUPS * KEY, rest - row, 0, GROUPS * KEY, KEY, TOKENS, TILE)
        S = add_dot(S, tl.trans(K), piece(X, part, PARTS, TOKENS, BLOCK))
    return S


@triton.jit(
    do_not_specialize=["count_documents"],
    do_not_specialize_on_alignment=["documents"],
)
def _scan_segments(
    transition,
    state,
    documents,
    count_documents,
    initial,
    entering,
    final,
    HEADS: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    """Some columns of the state of one head through the segments of one document."""
    BLOCKS: tl.constexpr = (VALUE + BLOCK - 1) // BLOCK
    place, column = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS * BLOCK
    document, head = place // HEADS, place % HEADS
    S = tl.zeros((TILE, BLOCK), tl.float32)
    if initial is not None:
        kept = tl.where(document == 0, KEY, 0)
        S = load_tile(initial + head * KEY * VALUE, kept, column, VALUE, VALUE, TILE, BLOCK)
    first = tl.load(documents + 2 * document).to(tl.int64)
    for n in tl.range(tl.load(documents + 2 * document + 1) - first):
        at = ((first + n) * HEADS + head) * KEY
        store_tile(entering + at * VALUE, S, KEY, column, VALUE, VALUE, TILE, BLOCK)
        tl.debug_barrier()  # what some threads stored others read
        if state is not None:
            S = load_tile(state + at * VALUE, KEY, column, VALUE, VALUE, TILE, BLOCK)
        else:
            S = tl.zeros((TILE, BLOCK), tl.float32)
        for row in tl.range(0, KEY, STEP):
            step = load_tile(transition + at * KEY, KEY, row, KEY, KEY, TILE, STEP)
            before = entering + at * VALUE + row * VALUE
            behind = load_tile(before, KEY - row, column, VALUE, VALUE, STEP, BLOCK)
            S = tl.dot(step, behind, S, input_precision="tf32x3")
    if document == count_documents - 1:
        store_tile(final + head * KEY * VALUE, S, KEY, column, VALUE, VALUE, TILE, BLOCK)
