"""States of the scalar-decay recurrence without its outputs: of chunks, segments and spans.

Forward in time a chunk does ``S -> carry S + (outflow K)^T V``; backward in time, to the gradient
of a state, ``dS -> carry dS + (inflow Q)^T dO``. Both are one walk, over ``x = k, y = v`` or over
``x = q, y = d_out`` in reverse.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl

from lmtrain_kernels.dots import add_dot, parts
from lmtrain_kernels.ssd_tiles import (
    Shapes,
    cumulate,
    load_rows,
    nearest,
    power_of_two,
    state_mask,
)
from lmtrain_kernels.tuned import tuned

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain_kernels.table import ChunkTable


class Summary(NamedTuple):
    """What segments do to a state: ``S -> transition S + state``, fp32."""

    transition: Tensor
    """``[m, h]`` of the linked segments."""
    state: Tensor
    """``[m, h, kd, vd]``."""


def summarize_segments(
    x: Tensor, y: Tensor, decay: Tensor, table: ChunkTable, *, reverse: bool
) -> Summary:
    """What each linked segment does to a state that it is entered by; of none if none is cut."""
    return _summarize(x, y, decay, table, table.linked, reverse=reverse)


def enter_segments(
    summary: Summary, table: ChunkTable, edge: Tensor | None, *, reverse: bool
) -> Tensor:
    """``[m, h, kd, vd]`` fp32: the states that enter the linked segments; zero enters the others.

    ``edge [h, kd, vd]`` enters the first document (in reverse the last). Where no document is cut,
    that of the first segment (the last) if there is an edge, else none.
    """
    if table.cut:
        entering = torch.empty_like(summary.state)
        edge = None if edge is None else edge.float().contiguous()
        _launch_scan(summary, table.documents, edge, entering, None, reverse)
        return entering
    if edge is None:
        return summary.state
    return edge[None].to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def span_state(
    k: Tensor, v: Tensor, decay: Tensor, table: ChunkTable, summary: Summary, *, alive: bool
) -> tuple[Tensor, Tensor]:
    """What the last document does to a state: ``(transition [h], state [h, kd, vd])``, fp32.

    The transition is zero unless ``alive``: the document must have begun before the span.
    ``summary`` of the linked segments.
    """
    last = _of_document(k, v, decay, table, summary, reverse=False)
    return last.transition[0] * alive, last.state[0]


def cosummary(
    q: Tensor, decay: Tensor, d_out: Tensor, table: ChunkTable, summary: Summary
) -> Tensor:
    """``[h, kd, vd]`` fp32: gradient of the state entering the first document, by its outputs.

    ``summary`` of the linked segments in reverse, over ``q`` and ``d_out``.
    """
    return _of_document(q, d_out, decay, table, summary, reverse=True).state[0]


def pass_states(
    k: Tensor, v: Tensor, decay: Tensor, table: ChunkTable, entering: Tensor, tile: int
) -> Tensor:
    """``[n * size / tile, h, kd, vd]``: the state entering each tile of a chunk; dtype of ``v``.

    ``entering`` as from ``enter_segments``; what lies past the end of a short chunk is undefined.
    """
    tiles = len(table.chunks) * (table.size // tile)
    states = v.new_empty(tiles, v.shape[1], k.shape[2], v.shape[2])
    segments = table.segments
    _launch(k, v, decay, table, segments, entering=entering, states=states, tile=tile)
    return states


def _of_document(
    x: Tensor, y: Tensor, decay: Tensor, table: ChunkTable, summary: Summary, *, reverse: bool
) -> Summary:
    """Of the last document (in reverse the first), as if it were one segment."""
    rows = slice(0, 1) if reverse else slice(-1, None)
    if not table.cut:
        return _summarize(x, y, decay, table, table.segments[rows], reverse=reverse)
    whole = Summary(*(torch.empty_like(part[:1]) for part in summary))
    _launch_scan(summary, table.documents[rows], None, None, whole, reverse)
    return whole


def _summarize(
    x: Tensor, y: Tensor, decay: Tensor, table: ChunkTable, segments: Tensor, *, reverse: bool
) -> Summary:
    """Of ``segments [m, 2]``."""
    count, heads = len(segments), y.shape[1]
    state = y.new_empty(count, heads, x.shape[2], y.shape[2], dtype=torch.float32)
    summary = Summary(y.new_empty(count, heads, dtype=torch.float32), state)
    if count:
        _launch(x, y, decay, table, segments, summary=summary, reverse=reverse)
    return summary


def _launch(
    x: Tensor,
    y: Tensor,
    decay: Tensor,
    table: ChunkTable,
    segments: Tensor,
    *,
    reverse: bool = False,
    summary: Summary | None = None,
    entering: Tensor | None = None,
    states: Tensor | None = None,
    tile: int | None = None,
) -> None:
    shapes = Shapes.of(x, y, decay, table)
    launch = tuned("ssd_walk", y.device, **shapes.launch_key(y.dtype))
    launch["TILE"] = tile or min(launch["TILE"], table.size)
    launch["BLOCK"] = min(launch["BLOCK"], power_of_two(shapes.value))
    launch["BLOCK_KEY"] = min(launch["BLOCK_KEY"], power_of_two(shapes.key))
    grid = (
        len(segments) * shapes.heads,
        parts(shapes.value, launch["BLOCK"]),
        parts(shapes.key, launch["BLOCK_KEY"]),
    )
    _walk[grid](
        *(x.contiguous(), y.contiguous(), decay.contiguous(), entering, states),
        *(summary or (None, None)),
        *(table.chunks, segments, 0 if entering is None else len(entering)),
        GROUPS=shapes.groups, HEADS=shapes.heads, KEY=shapes.key, VALUE=shapes.value,
        SIZE=table.size, REVERSE=reverse, **launch,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=["entered"],
    do_not_specialize_on_alignment=["segments"],  # a row of a table: 8 bytes
)
def _walk(
    x,
    y,
    decay,
    entering,
    states,
    transition,
    ends,
    chunks,
    segments,
    entered,
    GROUPS: tl.constexpr,
    HEADS: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    SIZE: tl.constexpr,
    REVERSE: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_KEY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One head, a block of its state, one segment.

    Keeps ``states`` where each tile begins, or ``transition`` and ``ends`` of the whole segment.
    """
    segment, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    group = head // (HEADS // GROUPS)
    first, last = tl.load(segments + 2 * segment), tl.load(segments + 2 * segment + 1)
    start, stop = tl.load(chunks + 2 * first), tl.load(chunks + 2 * last - 1)

    rows = tl.arange(0, TILE)
    wide = tl.program_id(2) * BLOCK_KEY + tl.arange(0, BLOCK_KEY)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at_state = wide[:, None] * VALUE + columns[None, :]
    in_state = state_mask(wide, columns, KEY, VALUE, BLOCK_KEY, BLOCK)
    S = tl.zeros([BLOCK_KEY, BLOCK], tl.float32)
    if entering is not None:
        entering += (segment * HEADS + head).to(tl.int64) * KEY * VALUE
        S = tl.load(entering + at_state, mask=in_state & (segment < entered), other=0.0)

    tiles = (last - first) * (SIZE // TILE)
    number = tiles - 1 if REVERSE else 0
    step: tl.constexpr = -1 if REVERSE else 1
    before = start.to(tl.int64) + number * TILE
    x += (before * GROUPS + group) * KEY
    y += (before * HEADS + head) * VALUE
    decay += before * HEADS + head
    if states is not None:
        states += (first.to(tl.int64) * (SIZE // TILE) * HEADS + head) * KEY * VALUE
    log_transition = 0.0
    for _ in range(0, tiles):
        if states is not None:
            tl.store(states + at_state, S.to(states.dtype.element_ty), mask=in_state)
            states += HEADS * KEY * VALUE
        left = tl.minimum(stop - start - number * TILE, TILE)  # none in a short chunk's last tiles
        near = nearest(rows, left)[:, None]
        X = load_rows(x, near * (GROUPS * KEY) + wide, rows, wide, left, KEY, BLOCK_KEY)
        Y = load_rows(y, near * (HEADS * VALUE) + columns, rows, columns, left, VALUE, BLOCK)
        total, whole = cumulate(decay, rows, left, HEADS)
        reach = tl.exp2(total) if REVERSE else tl.exp2(whole - total)
        S = add_dot(S * tl.exp2(whole), tl.trans(X), (Y * reach[:, None]).to(Y.dtype))
        log_transition += whole
        number += step
        x += step * TILE * GROUPS * KEY
        y += step * TILE * HEADS * VALUE
        decay += step * TILE * HEADS

    if transition is not None:
        tl.store(transition + segment * HEADS + head, tl.exp2(log_transition))
        ends += (segment * HEADS + head).to(tl.int64) * KEY * VALUE
        tl.store(ends + at_state, S, mask=in_state)


def _launch_scan(
    pieces: Summary,
    documents: Tensor,
    edge: Tensor | None,
    entering: Tensor | None,
    whole: Summary | None,
    reverse: bool,
) -> None:
    heads, size = pieces.state.shape[1], pieces.state[0, 0].numel()
    launch = tuned("ssd_scan", documents.device)
    transition, end = whole or (None, None)
    grid = (len(documents) * heads, parts(size, launch["BLOCK"]))
    _scan[grid](
        *(pieces.transition, pieces.state, documents, edge, entering, transition, end),
        len(documents) - 1 if reverse else 0,
        HEADS=heads, SIZE=size, REVERSE=reverse, **launch,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=["edge_document"],
    do_not_specialize_on_alignment=["documents"],
)
def _scan(
    transition,
    state,
    documents,
    edge,
    entering,
    whole_transition,
    end,
    edge_document,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One document, one head, ``BLOCK`` entries of its state: over the segments in order."""
    document, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    begin, stop = tl.load(documents + 2 * document), tl.load(documents + 2 * document + 1)
    entry = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < SIZE
    S = tl.zeros([BLOCK], tl.float32)
    if edge is not None:
        enters = inside & (document == edge_document)
        S = tl.load(edge + head * SIZE + entry, mask=enters, other=0.0)
    whole = 1.0
    for done in range(0, stop - begin):
        segment = stop - 1 - done if REVERSE else begin + done
        row = segment.to(tl.int64) * HEADS + head
        if entering is not None:
            tl.store(entering + row * SIZE + entry, S, mask=inside)
        T = tl.load(transition + row)
        S = T * S + tl.load(state + row * SIZE + entry, mask=inside, other=0.0)
        whole *= T
    if end is not None:
        tl.store(end + head * SIZE + entry, S, mask=inside)
        tl.store(whole_transition + head, whole)
