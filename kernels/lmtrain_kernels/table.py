"""Where the chunks of packed documents lie: the only thing that kernels know of documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

LEAST_SEGMENT = 8
"""Chunks: a shorter segment spends more on its summary than it wins by running beside others."""


class ChunkTable(NamedTuple):
    """Chunks, segments and documents of a span; int32 tensors on the device of the inputs.

    A chunk is at most ``size`` consecutive tokens of one document: every document opens a chunk. A
    segment is the run of consecutive chunks of one document that one program walks from end to end;
    a document has several where it is long and the card would otherwise stand idle. States are
    handed from one to the next of these; what many short documents beside them would hand on is
    never computed, since each state takes as much memory as a chunk or two.
    """

    chunks: Tensor
    """``[n, 2]``: the first token, and the one after the last."""
    segments: Tensor
    """``[s, 2]``: the first chunk, and the one after the last; the ``linked`` before all others."""
    linked: Tensor
    """``[m, 2]``: the segments of ``documents``."""
    documents: Tensor
    """``[d, 2]``: the first segment, and the one after the last, of every document that is cut, and
    of the first and the last one of the span; of none where no document is cut."""
    size: int
    """Tokens of a whole chunk."""

    @property
    def cut(self) -> bool:
        """Whether a document has several segments."""
        return self.linked.shape[0] > 0  # len() would fix it in a graph

    @property
    def last(self) -> int:
        """The segment that ends the span; 0 is the one that opens it."""
        return len(self.linked if self.cut else self.segments) - 1

    @classmethod
    def build(
        cls,
        lengths: Sequence[int],
        size: int,
        *,
        segment: int | None = None,
        device: torch.device | str = "cpu",
    ) -> Self:
        """The table of documents of these ``lengths`` (> 0), one after the other.

        ``segment`` is the most chunks of a segment; None cuts no document.

        Raises:
            ValueError: there is no document, or one without tokens.
        """
        tokens = np.asarray(lengths, np.int64)
        if not tokens.size or tokens.min() < 1:
            raise ValueError(f"documents of {list(lengths)[:8]} tokens: leave out the empty ones")
        ends = tokens.cumsum()
        chunks = _cut(ends - tokens, ends, size)
        count = -(-tokens // size)
        last = count.cumsum()
        segments = _cut(last - count, last, segment or max(1, len(chunks)))
        pieces = -(-count // (segment or max(1, len(chunks))))
        joined = pieces > 1
        if joined.any():
            joined[[0, -1]] = True  # what enters and leaves the span passes through these
        of_joined = np.repeat(joined, pieces)
        linked = segments[of_joined]
        segments = np.concatenate([linked, segments[~of_joined]])
        last = pieces[joined].cumsum()
        documents = np.stack([last - pieces[joined], last], 1)
        tables = (x.astype(np.int32) for x in (chunks, segments, linked, documents))
        return cls(*(torch.from_numpy(x).to(device, non_blocking=True) for x in tables), size=size)


def segment_chunks(
    lengths: Sequence[int], size: int, programs: int, wanted: int, worth: int
) -> int | None:
    """The most chunks of a segment so that a launch has about ``wanted`` programs, or None.

    ``programs`` are the programs of one segment (heads times blocks of a state). Documents are cut
    only where ``wanted`` leaves the longest of them ``worth`` segments, since a cut is paid for
    with summaries; no segment is shorter than ``LEAST_SEGMENT``.
    """
    segments = wanted // programs
    counts = [-(-length // size) for length in lengths]
    if segments < 2 or segments * max(counts, default=0) < worth * sum(counts):
        return None
    return max(LEAST_SEGMENT, -(-sum(counts) // segments))


def _cut(starts: NDArray[np.int64], stops: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """``[n, 2]`` pieces of at most ``size`` of the ranges ``[start, stop)``, in order."""
    counts = -(-(stops - starts) // size)
    owner = np.repeat(np.arange(len(starts)), counts)
    index = np.arange(len(owner)) - np.repeat(counts.cumsum() - counts, counts)
    begin = starts[owner] + index * size
    return np.stack([begin, np.minimum(begin + size, stops[owner])], 1)
