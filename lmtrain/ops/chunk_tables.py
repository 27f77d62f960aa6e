"""Tables of chunks, which the Triton kernels walk, from a layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lmtrain_kernels.table import ChunkTable, segment_chunks
from lmtrain_kernels.tuned import multiprocessors

if TYPE_CHECKING:
    from lmtrain.layout import SequenceLayout


class SpanTable(NamedTuple):
    """The chunks of a span, and whether its first document began before it."""

    table: ChunkTable
    continues: bool


def span_table(layout: SequenceLayout, size: int, programs: int, worth: int) -> SpanTable:
    """Chunks of ``size`` tokens; ``programs`` walk a segment side by side.

    Long documents are cut into segments where the card would otherwise stand idle, if there is room
    for ``worth`` of them. To be derived: ``layout.derive(span_table, size, programs, worth)``.
    """
    busy = multiprocessors(layout.device, elsewhere=1)
    segment = segment_chunks(layout.lengths, size, programs, busy, worth)
    table = ChunkTable.build(layout.lengths, size, segment=segment, device=layout.device)
    return SpanTable(table, layout.continues)
