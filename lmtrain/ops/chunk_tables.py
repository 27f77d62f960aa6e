"""Tables of chunks, which the Triton kernels walk, from a layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lmtrain_kernels.table import ChunkTable, segment_chunks
from lmtrain_kernels.tuned import multiprocessors, tuned

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout

COLUMNS = 64
"""Of a state, that one program holds."""


class SpanTable(NamedTuple):
    """The chunks of a span, and whether its first document began before it."""

    table: ChunkTable
    continues: bool


def span_table(layout: SequenceLayout, v: Tensor, size: int, kernel: str) -> SpanTable:
    """Chunks of ``size`` tokens for values ``v [t, h, vd]``, made once for a layout.

    Long documents are cut into segments where the card would otherwise stand idle: the row of
    ``tuned.json`` for ``kernel`` says how many programs make a multiprocessor busy, and from how
    many segments of a document on a cut is worth its summaries.
    """
    heads, width = v.shape[1:]
    cut = tuned(kernel, layout.device)
    walks = heads * -(-width // COLUMNS)
    return layout.derive(_span_table, size, walks, cut["programs"], cut["worth"])


def _span_table(
    layout: SequenceLayout, size: int, walks: int, programs: int, worth: int
) -> SpanTable:
    """``walks`` of a segment side by side."""
    busy = programs * multiprocessors(layout.device, elsewhere=1)
    segment = segment_chunks(layout.lengths, size, walks, busy, worth)
    table = ChunkTable.build(layout.lengths, size, segment=segment, device=layout.device)
    return SpanTable(table, layout.continues)
