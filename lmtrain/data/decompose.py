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

from lmtrain.data.config import Remainder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lmtrain.data.config import CurriculumConfig
    from lmtrain.data.store import Documents


@dataclass(frozen=True)
class Decomposition:
    """Where the pieces of each bucket start, and how much of the documents they hold."""

    buckets: dict[int, NDArray[np.int64]]
    """Length to int64 ``[pieces]`` positions, in document order; shortest bucket first."""
    pairs: int
    """Pairs of (input, target) in the documents."""

    @property
    def kept(self) -> int:
        """Pairs inside pieces; the others are dropped."""
        return sum(length * len(starts) for length, starts in self.buckets.items())


def decompose(documents: Documents, lengths: list[int]) -> Decomposition:
    """Cut documents into pieces of ``lengths``: consecutive powers of two, shortest first.

    A document with more pairs than the longest length gives as many longest pieces as it holds.
    """
    pairs = np.maximum(documents.lengths - 1, 0)
    buckets = {
        length: documents.starts[has := (pairs & length) != 0] + (pairs[has] & (-2 * length))
        for length in lengths[:-1]
    }
    buckets[lengths[-1]] = _longest(documents.starts, pairs, lengths[-1])
    return Decomposition(buckets, int(pairs.sum()))


def piece_lengths(config: CurriculumConfig) -> list[int]:
    """Lengths of the pieces, shortest first."""
    shortest = config.floor if config.remainder == Remainder.keep else config.min_length
    return [1 << i for i in range(shortest.bit_length() - 1, config.max_length.bit_length())]


def _longest(starts: NDArray[np.int64], pairs: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Pieces of the longest length: as many as each document holds, one after the other."""
    counts = pairs // length
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(starts, counts) + (np.arange(len(first)) - first) * length
