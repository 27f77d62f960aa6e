"""Buckets: pieces of one length, each of one or several segments of documents.

A piece is what a plan draws: ``length`` tokens of a row. Decomposition gives pieces of one segment;
the packed views lay several side by side::

    store    ...|--- document ---|------- document -------|-- document --|...
    one segment a piece      |======|======|
    three segments a piece          |===|   |==|      |=|   (from anywhere in the store)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

NOWHERE = -1
"""Position of what is not in the store: padding, and the target of a document's last token."""


class Segments(NamedTuple):
    """Stretches of documents, side by side: int64 ``[segments]`` each.

    The target of a token is the token after it in the store; only that of the last token of a
    segment is said, because it may be elsewhere or missing.
    """

    starts: NDArray[np.int64]
    """Position in the store of the first token; ``NOWHERE`` is padding."""
    lengths: NDArray[np.int64]
    """Tokens, not counting the target of the last one."""
    labels: NDArray[np.int64]
    """Position of the target of the last token; ``NOWHERE`` has none."""

    @classmethod
    def of_length(cls, starts: NDArray[np.int64], length: int) -> Self:
        """Segments of one length, inside their documents."""
        return cls(starts, np.full_like(starts, length), starts + length)

    @property
    def begins(self) -> NDArray[np.int64]:
        """Where each one begins in the row."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def targets(self) -> NDArray[np.int64]:
        """How many targets each one has."""
        real = self.lengths - (self.labels == NOWHERE)
        return np.where(self.starts == NOWHERE, 0, real)

    def cut(self, first: int, stop: int) -> Segments:
        """What lies in the tokens ``[first, stop)`` of the row."""
        begins = self.begins
        inside = slice(
            int(np.searchsorted(begins, first, side="right")) - 1,
            int(np.searchsorted(begins, stop, side="left")),
        )
        starts, lengths, labels = (part[inside] for part in self)
        before = np.maximum(first - begins[inside], 0)
        after = np.maximum(begins[inside] + lengths - stop, 0)
        real = starts != NOWHERE
        starts, lengths = np.where(real, starts + before, NOWHERE), lengths - before - after
        labels = np.where((after > 0) & real, starts + lengths, labels)
        return Segments(starts, lengths, labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """Pieces of one ``length`` side by side: a global batch, or one row of it.

    Where documents run on (``joined``) a piece is one document; else every segment is one. A
    ``window`` adds a border after every so many tokens of a piece; targets stay.
    """

    length: int
    segments: Segments
    joined: bool = False
    window: int | None = None

    @property
    def starts(self) -> NDArray[np.int64]:
        """int64 ``[segments]``: where the segments begin in the store."""
        return self.segments.starts

    @property
    def tokens(self) -> int:
        """Tokens of all pieces."""
        return int(self.segments.lengths.sum())

    def row(self, index: int, tokens: int) -> Draw:
        """Row ``index`` of those of ``tokens`` that the batch is cut into: whole pieces."""
        segments = self.segments.cut(index * tokens, (index + 1) * tokens)
        return replace(self, segments=segments)


@dataclass(frozen=True, kw_only=True, eq=False)
class Packing:
    """How segments make pieces, where a piece may have several."""

    first: NDArray[np.int64]
    """``[pieces + 1]``: the first segment of each piece, and the number of segments."""
    lengths: NDArray[np.int64]
    labels: NDArray[np.int64]
    """``[segments]`` both; see `Segments`."""
    targets: NDArray[np.int64]
    """``[pieces]``: targets of each piece."""
    joined: bool = False
    """Whether documents run on inside a piece."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bucket:
    """All pieces of one ``length``.

    Without a ``packing`` every piece is one segment that begins at its ``starts``.
    """

    length: int
    starts: NDArray[np.int64]
    packing: Packing | None = None
    kind: str = "pieces"
    """Tells buckets of one length apart, and keys the order of their pieces."""
    answers: int | None = None
    """Targets of each piece, where not every token has one and there is no packing."""

    def __len__(self) -> int:
        """How many pieces."""
        return len(self.starts) if self.packing is None else len(self.packing.targets)

    @property
    def tokens(self) -> int:
        """Tokens of all pieces, padding included."""
        return self.length * len(self)

    @property
    def all_targets(self) -> int:
        """Targets of all pieces."""
        if self.packing is None:
            return self.in_pieces(len(self))
        return int(self.packing.targets.sum())

    @property
    def context(self) -> float:
        """Tokens that a token sees before it in its document, on average."""
        if self.packing is None or self.packing.joined:
            return (self.length - 1) / 2
        lengths = self.packing.lengths.astype(np.float64)
        return float((lengths * (lengths - 1)).sum() / 2 / self.tokens)

    @property
    def padding(self) -> int:
        """Tokens that stand for nothing."""
        if self.packing is None:
            return 0
        return int(self.packing.lengths[self.starts == NOWHERE].sum())

    def draw(self, index: NDArray[np.int64], *, window: int | None = None) -> Draw:
        """The pieces of these numbers, in this order, seen through a window."""
        if self.packing is None:
            segments = Segments.of_length(self.starts[index], self.length)
            return Draw(length=self.length, segments=segments, window=window)
        first, end = self.packing.first[index], self.packing.first[index + 1]
        counts = end - first
        at: NDArray[np.int64] = np.repeat(end - np.cumsum(counts), counts)
        at += np.arange(len(at))
        segments = Segments(self.starts[at], self.packing.lengths[at], self.packing.labels[at])
        joined = self.packing.joined
        return Draw(length=self.length, segments=segments, joined=joined, window=window)

    def targets(self, index: NDArray[np.int64]) -> int:
        """Targets in the pieces of these numbers."""
        if self.packing is None:
            return self.in_pieces(len(index))
        return int(self.packing.targets[index].sum())

    def in_pieces(self, count: int) -> int:
        """Targets in any so many pieces, which are alike without a packing."""
        return count * (self.length if self.answers is None else self.answers)
