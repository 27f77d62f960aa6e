"""Gated delta rule, backward in time: gradients of what is written and of the states."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from lmtrain_kernels.dots import (
    add_dot,
    between,
    dot,
    load_numbers,
    load_tile,
    padded,
    parts,
    piece,
    store_tile,
)
from lmtrain_kernels.tuned import tuned

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain_kernels.delta_prepare import Prepared
    from lmtrain_kernels.table import ChunkTable


def begin_backward(q: Tensor, k: Tensor, total: Tensor, d_out: Tensor, table: ChunkTable) -> Tensor:
    """``P^T dO [t, h, vd]`` in the dtype of ``k``: what a chunk's outputs ask of its writes.

    ``q, k [t, g, kd], total [t, h], d_out [t, h, vd]``, contiguous.
    """
    (heads, value), (groups, key) = d_out.shape[1:], k.shape[1:]
    d_written = torch.empty_like(d_out, dtype=k.dtype)
    _outputs_kernel[(len(table.chunks) * heads,)](
        *(q, k, total, d_out, d_written, table.chunks),
        H=heads,
        SHARED=heads // groups,
        K=key,
        V=value,
        C=table.size,
        **launch("delta_outputs_backward", k, value),
    )
    return d_written


def pass_d_states(
    q: Tensor,
    k: Tensor,
    prepared: Prepared,
    d_out: Tensor,
    d_written: Tensor,
    table: ChunkTable,
    leaving: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the states, from the last chunk of each document to its first.

    Args:
        q: ``[t, g, kd]``.
        k: ``[t, g, kd]``.
        prepared: of which ``total`` and ``w`` are read.
        d_out: ``[t, h, vd]``.
        d_written: of ``begin_backward``.
        table: where the chunks lie.
        leaving: of ``leave_segments``.

    Returns:
        ``d_states [n, h, kd, vd]`` of the state that leaves each chunk, in the dtype of ``k``;
        ``d_written [t, h, vd]`` in full; ``d_initial [h, kd, vd]`` fp32.
    """
    shape = len(table.chunks), d_out.shape[1], k.shape[2], d_out.shape[2]
    d_states = k.new_empty(shape)
    d_initial = k.new_empty(shape[1:], dtype=torch.float32)
    all_written = torch.empty_like(d_written)
    _states(
        *(q, k, prepared, d_out, d_written, table.chunks, table.segments, table.size),
        (all_written, d_states, d_initial),
        leaving,
        0 if table.cut else table.last,
    )
    return d_states, all_written, d_initial


def cosummarize_segments(
    q: Tensor,
    k: Tensor,
    prepared: Prepared,
    d_out: Tensor,
    d_written: Tensor,
    table: ChunkTable,
) -> Tensor:
    """``[m, h, kd, vd]`` fp32: what the outputs of each linked segment ask of what enters it.

    Arguments as of ``pass_d_states``; none where no document is cut.
    """
    return _cosummaries(q, k, prepared, d_out, d_written, table, table.linked)


def leave_segments(
    transition: Tensor, local: Tensor, table: ChunkTable, d_final: Tensor | None
) -> Tensor:
    """``[m, h, kd, vd]`` fp32: gradients of the states that leave the linked segments.

    Where no document is cut, of the state that leaves the last segment if there is a ``d_final``,
    else none. The states that leave other segments have no gradient.

    Args:
        transition: ``[m, h, kd, kd]`` of the linked segments.
        local: of ``cosummarize_segments``.
        table: where they lie.
        d_final: ``[h, kd, vd]``, or None for zero.
    """
    edge = None if d_final is None else d_final.float().contiguous()
    if table.cut:
        return _scan_back(transition, local, table.documents, edge)[0]
    return local if edge is None else edge[None]


def span_cosummary(
    q: Tensor,
    k: Tensor,
    prepared: Prepared,
    d_out: Tensor,
    d_written: Tensor,
    table: ChunkTable,
    transition: Tensor,
    local: Tensor,
) -> Tensor:
    """What the outputs of the first document alone ask of the state that enters it.

    ``[h, kd, vd]`` fp32. Arguments as of ``pass_d_states`` and ``leave_segments``.
    """
    if table.cut:
        return _scan_back(transition, local, table.documents[:1], None)[1]
    return _cosummaries(q, k, prepared, d_out, d_written, table, table.segments[:1])[0]


def launch(kernel: str, k: Tensor, value: int) -> dict[str, int]:
    """The launch of a kernel for keys ``k [t, g, kd]`` and values of ``value`` numbers."""
    sizes = {"key": padded(k.shape[2]), "value": padded(value)}
    found = tuned(kernel, k.device, dtype=str(k.dtype).removeprefix("torch."), **sizes)
    blocks = {"BK": sizes["key"], "BV": sizes["value"], "STEP": sizes["key"]}
    return found | {name: min(found[name], n) for name, n in blocks.items() if name in found}


def _scan_back(
    transition: Tensor, local: Tensor, documents: Tensor, d_final: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients ``[m, h, kd, vd]`` of what leaves the segments of ``documents [d, 2]``.

    And of what enters the first of them, ``[h, kd, vd]``; ``d_final`` is of what leaves the last.
    """
    leaving, d_initial = torch.empty_like(local), torch.empty_like(local[0])
    _, heads, key, value = local.shape
    launched = launch("delta_segments_backward", transition, value)
    blocks = parts(value, launched["BV"])
    _segments_kernel[(len(documents) * heads * blocks,)](
        *(transition, local, d_final, leaving, d_initial, documents, len(documents)),
        H=heads,
        K=key,
        KP=padded(key),
        V=value,
        **launched,
    )
    return leaving, d_initial


def _cosummaries(
    q: Tensor,
    k: Tensor,
    prepared: Prepared,
    d_out: Tensor,
    d_written: Tensor,
    table: ChunkTable,
    segments: Tensor,
) -> Tensor:
    """``[m, h, kd, vd]`` fp32: the pass from zero over each of ``segments [m, 2]``."""
    shape = len(segments), d_out.shape[1], k.shape[2], d_out.shape[2]
    found = k.new_empty(shape, dtype=torch.float32)
    if len(segments):
        _states(
            *(q, k, prepared, d_out, d_written, table.chunks, segments, table.size),
            (None, None, found),
        )
    return found


def _states(
    q: Tensor,
    k: Tensor,
    prepared: Prepared,
    d_out: Tensor,
    d_written: Tensor,
    chunks: Tensor,
    segments: Tensor,
    size: int,
    results: tuple[Tensor | None, Tensor | None, Tensor],
    leaving: Tensor | None = None,
    first: int = 0,
) -> None:
    """Launch the pass: into ``(d_written, d_states, d_initial)``, or the last alone, a segment.

    ``leaving [m, h, kd, vd]`` is of the states that leave m segments from ``first`` on; without it
    all segments are walked from zero.
    """
    (heads, value), (groups, key) = d_out.shape[1:], k.shape[1:]
    launched = launch("delta_states_backward", k, value)
    _states_kernel[(len(segments) * heads * parts(value, launched["BV"]),)](
        *(q, k, prepared.w, prepared.total, d_out, d_written, leaving, *results),
        *(chunks, segments, first, 0 if leaving is None else len(leaving)),
        H=heads,
        SHARED=heads // groups,
        K=key,
        KP=padded(key),
        V=value,
        C=size,
        SUMMARY=leaving is None,
        **launched,
    )


@triton.jit
def _outputs_kernel(
    q,
    k,
    total,
    d_out,
    d_written,
    chunks,
    H: tl.constexpr,
    SHARED: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """``P^T dO`` of one head of one chunk."""
    chunk, head = tl.program_id(0) // H, tl.program_id(0) % H
    start = tl.load(chunks + 2 * chunk).to(tl.int64)
    count = (tl.load(chunks + 2 * chunk + 1) - start).to(tl.int32)
    GROUPS: tl.constexpr = H // SHARED
    token = start * H + head
    at_key = (start * GROUPS + head // SHARED) * K
    transposed = tl.zeros((C, C), tl.float32)
    for row in tl.static_range(0, K, BK):
        Q = load_tile(q + at_key, count, row, GROUPS * K, K, C, BK)
        Kb = load_tile(k + at_key, count, row, GROUPS * K, K, C, BK)
        transposed = add_dot(transposed, Kb, tl.trans(Q))
    G, _ = load_totals(total + token, count, H, C)
    transposed = (transposed * tl.trans(between(G, C))).to(k.dtype.element_ty)
    for column in range(0, V, BV):
        dO = load_tile(d_out + token * V, count, column, H * V, V, C, BV)
        dW = dot(transposed, dO.to(transposed.dtype))
        store_tile(d_written + token * V, dW, count, column, H * V, V, C, BV)


@triton.jit(
    do_not_specialize=["from_segment", "leaves"],
    do_not_specialize_on_alignment=["segments"],
)
def _states_kernel(
    q,
    k,
    w,
    total,
    d_out,
    d_written,
    leaving,
    all_written,
    d_states,
    d_entering,
    chunks,
    segments,
    from_segment,
    leaves,
    H: tl.constexpr,
    SHARED: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    SUMMARY: tl.constexpr,
    BV: tl.constexpr,
    STEP: tl.constexpr,
):
    """Walks the chunks of one segment back, ``BV`` columns of one head's state in registers."""
    BLOCKS: tl.constexpr = (V + BV - 1) // BV
    GROUPS: tl.constexpr = H // SHARED
    segment, head = tl.program_id(0) // (H * BLOCKS), tl.program_id(0) // BLOCKS % H
    column = tl.program_id(0) % BLOCKS * BV
    first, last = tl.load(segments + 2 * segment), tl.load(segments + 2 * segment + 1)
    start, stop = tl.load(chunks + 2 * first), tl.load(chunks + 2 * last - 1)
    at_segment = (segment * H + head).to(tl.int64) * K * V

    d_state = tl.zeros((KP, BV), tl.float32)
    if not SUMMARY:
        behind = segment - from_segment
        kept = tl.where((behind >= 0) & (behind < leaves), K, 0)
        at_leaving = (behind * H + head).to(tl.int64) * K * V
        d_state = load_tile(leaving + at_leaving, kept, column, V, V, KP, BV)

    for back in range(last - first):
        chunk = last - 1 - back
        begin = (start + (chunk - first) * C).to(tl.int64)
        inside = tl.minimum(stop - begin, C).to(tl.int32)
        token, at_key = begin * H + head, (begin * GROUPS + head // SHARED) * K
        if not SUMMARY:
            at_state = (chunk * H + head).to(tl.int64) * K * V
            store_tile(d_states + at_state, d_state, K, column, V, V, KP, BV)
        G, whole = load_totals(total + token, inside, H, C)
        asked = tl.zeros((C, BV), tl.float32)
        for part in tl.static_range(KP // STEP):
            Kb = load_tile(k + at_key, inside, part * STEP, GROUPS * K, K, C, STEP)
            some = piece(d_state, part, KP // STEP, STEP, BV)
            asked = add_dot(asked, Kb, some.to(Kb.dtype))
        dW = load_tile(d_written + token * V, inside, column, H * V, V, C, BV)
        dW += tl.exp(whole - G)[:, None] * asked
        if not SUMMARY:
            store_tile(all_written + token * V, dW, inside, column, H * V, V, C, BV)
        dO = load_tile(d_out + token * V, inside, column, H * V, V, C, BV)
        dO = tl.exp(G)[:, None] * dO
        d_state *= tl.exp(whole)
        PARTS: tl.constexpr = (C + STEP - 1) // STEP
        ROWS: tl.constexpr = C // PARTS
        for part in tl.static_range(PARTS):
            at, rest = part * ROWS, inside - part * ROWS
            Q = load_tile(q + at_key + at * GROUPS * K, rest, 0, GROUPS * K, K, ROWS, KP)
            some = piece(dO, part, PARTS, ROWS, BV)
            d_state = add_dot(d_state, tl.trans(Q), some.to(Q.dtype))
            W = load_tile(w + (token + at * H) * K, rest, 0, H * K, K, ROWS, KP)
            some = piece(-dW, part, PARTS, ROWS, BV)
            d_state = add_dot(d_state, tl.trans(W), some.to(W.dtype))

    if SUMMARY:
        store_tile(d_entering + at_segment, d_state, K, column, V, V, KP, BV)
    elif segment == 0:
        store_tile(d_entering + head * K * V, d_state, K, column, V, V, KP, BV)


@triton.jit(
    do_not_specialize=["count"],
    do_not_specialize_on_alignment=["documents"],
)
def _segments_kernel(
    transition,
    local,
    d_final,
    leaving,
    d_initial,
    documents,
    count,
    H: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """Walks the segments of one document back: ``dS -> transition^T dS + local``."""
    BLOCKS: tl.constexpr = (V + BV - 1) // BV
    document, head = tl.program_id(0) // (H * BLOCKS), tl.program_id(0) // BLOCKS % H
    column = tl.program_id(0) % BLOCKS * BV
    first, last = tl.load(documents + 2 * document), tl.load(documents + 2 * document + 1)
    d_state = tl.zeros((KP, BV), tl.float32)
    if d_final is not None and document == count - 1:
        d_state = load_tile(d_final + head * K * V, K, column, V, V, KP, BV)
    for back in range(last - first):
        at = ((last - 1 - back) * H + head).to(tl.int64) * K
        store_tile(leaving + at * V, d_state, K, column, V, V, KP, BV)
        tl.debug_barrier()  # below, other threads read what these have stored
        d_state = load_tile(local + at * V, K, column, V, V, KP, BV)
        for row in range(0, K, BK):
            factor = load_tile(transition + (at + row) * K, K - row, 0, K, K, BK, KP)
            behind = load_tile(leaving + (at + row) * V, K - row, column, V, V, BK, BV)
            d_state = tl.dot(tl.trans(factor), behind, d_state, input_precision="tf32x3")
    if document == 0:
        store_tile(d_initial + head * K * V, d_state, K, column, V, V, KP, BV)


@triton.jit
def load_totals(pointer, count, STRIDE: tl.constexpr, C: tl.constexpr):
    """``G [C]`` and its last; tokens beyond ``count`` have no decay, so that no ratio overflows."""
    leaves = tl.load(pointer + (count - 1) * STRIDE)
    G = load_numbers(pointer, count, STRIDE, C)
    return tl.where(tl.arange(0, C) < count, G, leaves), leaves
