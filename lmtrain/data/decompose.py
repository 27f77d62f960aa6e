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
from lmtrain.data.permutation import key_words, mix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmtrain.data.store import Documents


DOCUMENTS, DRAWS = 4096, 256
"""Long documents cut at random at a time, and lengths drawn for each of them at a time."""


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
    Cutting at random depends on nothing but the place of the document.
    """
    starts, longest = documents.starts, lengths[-1]
    pairs = np.maximum(documents.lengths - 1, 0)
    digits = pairs
    overlap = np.zeros_like(pairs)
    drawn = _no_pieces(), _no_pieces()
    if long_docs == LongDocuments.window:
        overlap = np.where(pairs > longest, -pairs % longest, 0)
        digits = pairs + overlap
    elif long_docs == LongDocuments.random:
        drawn, cut = _at_random(starts, pairs, lengths)
        starts, digits = starts + cut, pairs - cut
    buckets: dict[int, NDArray[np.int64]] = {}
    for length in lengths[:-1]:
        has = np.flatnonzero(digits & length)
        buckets[length] = starts[has] + (digits[has] & (-2 * length))
    buckets[longest] = _longest(starts, digits // longest, overlap, longest)
    if len(drawn[0]):
        at, size = drawn
        buckets = {n: np.sort(np.append(s, at[size == n])) for n, s in buckets.items()}
    return Decomposition(buckets, int(pairs.sum()), int(overlap.sum()))


def rests(
    documents: Documents, lengths: Sequence[int], *, long_docs: LongDocuments = LongDocuments.greedy
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and number of the pairs of each document that no piece holds; none without any."""
    pairs = np.maximum(documents.lengths - 1, 0)
    rest = pairs % lengths[0]
    if long_docs == LongDocuments.window:
        rest[pairs > lengths[-1]] = 0
    has = np.flatnonzero(rest)
    return documents.starts[has] + (pairs - rest)[has], rest[has]


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


def _at_random(
    starts: NDArray[np.int64], pairs: NDArray[np.int64], lengths: Sequence[int]
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]:
    """Pieces of random length while a document still holds two of the longest.

    Returns:
        ``[pieces]`` start and length of each, and ``[documents]`` pairs that are in them.
    """
    cut = np.zeros_like(pairs)
    found: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = [(_no_pieces(), _no_pieces())]
    every = np.flatnonzero(pairs >= 2 * lengths[-1])
    for i in range(0, len(every), DOCUMENTS):
        here, first = every[i : i + DOCUMENTS], 0
        while len(here):
            sizes = _drawn(starts[here], first, lengths)
            begins = cut[here, None] + np.cumsum(sizes, 1) - sizes
            taken = pairs[here, None] - begins >= 2 * lengths[-1]
            found.append(((starts[here, None] + begins)[taken], sizes[taken]))
            cut[here] += (sizes * taken).sum(1)
            here, first = here[taken[:, -1]], first + DRAWS
    at, size = zip(*found, strict=True)
    return (np.concatenate(at), np.concatenate(size)), cut


def _drawn(starts: NDArray[np.int64], first: int, lengths: Sequence[int]) -> NDArray[np.int64]:
    """``[documents, DRAWS]`` lengths, each with a probability in proportion to its inverse."""
    places = mix(starts.astype(np.uint64) + key_words("long documents", count=1))
    words = mix(places[:, None] + np.arange(first, first + DRAWS, dtype=np.uint64))
    ticket = words % np.uint64((1 << len(lengths)) - 1) + np.uint64(1)
    _, digits = np.frexp(ticket.astype(np.float64))  # half of the tickets have the most digits
    return np.int64(lengths[-1]) >> (digits.astype(np.int64) - 1)


def _no_pieces() -> NDArray[np.int64]:
    return np.empty(0, np.int64)
