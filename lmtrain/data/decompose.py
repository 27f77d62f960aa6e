"""Dataset decomposition: documents become pieces whose lengths are powers of two.

A document of ``n`` tokens has ``n - 1`` pairs of (input, target). The pairs are cut by the binary
digits of their number, longest piece first; a piece of ``L`` pairs reads ``L + 1`` tokens, so
neighbouring pieces share one token and no target is lost::

    document of 1402 tokens, lengths 64 .. 512
    |------ 512 ------|------ 512 ------|-- 256 --|64|57|
                                                       below the shortest: dropped, or cut on
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lmtrain.data.curriculum_config import LongDocuments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmtrain.data.store import Documents


@dataclass(frozen=True)
class Decomposition:
    """Where the pieces of each bucket start, and how much of the documents they hold."""

    buckets: dict[int, NDArray[np.int64]]
    """Length to int64 ``[pieces]`` positions, in document order; shortest bucket first."""
    pairs: int
    """Pairs of (input, target) in the documents."""
    repeated: int
    """Pairs that lie in two pieces."""

    @property
    def kept(self) -> int:
        """Pairs that lie in a piece; the others are dropped."""
        return sum(length * len(at) for length, at in self.buckets.items()) - self.repeated


def decompose(
    documents: Documents,
    lengths: Sequence[int],
    *,
    long_docs: LongDocuments = LongDocuments.greedy,
) -> Decomposition:
    """Cut documents into pieces of ``lengths``: consecutive powers of two, shortest first.

    Vectorised over documents; ``long_docs`` says what is done with those above the longest length.
    """
    starts, longest = documents.starts, lengths[-1]
    pairs = np.maximum(documents.lengths - 1, 0)
    digits = pairs
    overlap = np.zeros_like(pairs)
    if long_docs == LongDocuments.window:
        overlap = np.where(pairs > longest, -pairs % longest, 0)
        digits = pairs + overlap
    buckets: dict[int, NDArray[np.int64]] = {}
    for length in lengths[:-1]:
        has = np.flatnonzero(digits & length)
        buckets[length] = starts[has] + (digits[has] & (-2 * length))
    buckets[longest] = _longest(starts, digits // longest, overlap, longest)
    return Decomposition(buckets, int(pairs.sum()), int(overlap.sum()))


def _longest(
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
    overlap: NDArray[np.int64],
    length: int,
) -> NDArray[np.int64]:
    """``counts`` pieces of each document, one after the other, the last moved back."""
    ends = np.cumsum(counts)
    first = np.repeat(ends - counts, counts)
    pieces = np.repeat(starts, counts) + (np.arange(len(first)) - first) * length
    pieces[ends[counts > 0] - 1] -= overlap[counts > 0]
    return pieces
