"""Tables of chunks, which the Triton kernels walk, from a layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lmtrain_kernels.table import ChunkTable, segment_chunks
from lmtrain_kernels.tuned import multiprocessors, tuned

if TYPE_CHECKING:
    from lmtrain.layout import SequenceLayout


class SpanTable(NamedTuple):
    """The chunks of a span, and whether its first document began before it."""

    table: ChunkTable
    continues: bool


def span_table(layout: SequenceLayout, size: int, walks: int, kernel: str) -> SpanTable:
    """Chunks of ``size`` tokens; ``walks`` programs walk a segment side by side.

    Long documents are cut into segments where the card would otherwise stand idle: the row of
    ``tuned.json`` for ``kernel`` says how many programs make a multiprocessor busy, and from how
    many segments of a document on a cut is worth its summaries. To be derived:
    ``layout.derive(span_table, size, walks, kernel)``.
    """
    cut = tuned(kernel, layout.device)
    busy, worth = cut["programs"] * multiprocessors(layout.device, elsewhere=1), cut["worth"]
    segment = segment_chunks(layout.lengths, size, walks, busy, worth)
    table = ChunkTable.build(layout.lengths, size, segment=segment, device=layout.device)
    return SpanTable(table, layout.continues)
