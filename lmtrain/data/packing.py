"""Packed pieces: stretches of documents laid side by side until they fill a length.

Stretches are given as ``starts`` and ``lengths``; the target of the last token of each is said by a
position, or is ``NOWHERE``. Either they follow each other and are cut wherever a piece is full, or
they stay whole and are packed best fit, the longest first, with padding at the end of a piece::

    run on     |aaaaaab|bbbcccc|ccddd..
    best fit   |aaaaaa.|ccccccc|bbbbddd|
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

import numpy as np

from lmtrain.data.bucket import NOWHERE, Bucket, Packing, Segments

if TYPE_CHECKING:
    from numpy.typing import NDArray


def run_on(stretches: Segments, length: int, *, joined: bool = False, fill: bool = False) -> Bucket:
    """Stretches one after the other, cut into pieces of ``length``.

    Args:
        stretches: what is laid; none is empty.
        length: tokens of a piece.
        joined: documents run on inside a piece.
        fill: the last piece is filled up with padding; else what does not fill it is left out.
    """
    total = int(stretches.lengths.sum())
    missing = -total % length if fill else 0
    if missing:
        pad = Segments(*(np.array([value]) for value in (NOWHERE, missing, NOWHERE)))
        stretches = Segments(*map(np.append, stretches, pad))
    pieces = (total + missing) // length
    begins, stop = stretches.begins, pieces * length
    edges = np.append(begins[begins < stop], np.arange(0, stop, length))
    edges.sort(kind="stable")  # two sorted parts are merged
    edges = edges[np.diff(edges, prepend=-1) > 0]
    owner = np.searchsorted(begins, edges, side="right") - 1
    lengths = np.diff(edges, append=stop)
    real = stretches.starts[owner] != NOWHERE
    starts = np.where(real, stretches.starts[owner] + edges - begins[owner], NOWHERE)
    whole = edges + lengths == (begins + stretches.lengths)[owner]
    labels = np.where(whole, stretches.labels[owner], np.where(real, starts + lengths, NOWHERE))
    first = np.searchsorted(edges, np.arange(pieces + 1) * length)
    return _bucket(Segments(starts, lengths, labels), first, length, joined=joined)


def best_fit(starts: NDArray[np.int64], pairs: NDArray[np.int64], length: int) -> Bucket:
    """Parts of documents, none above ``length``, each whole in the fullest piece it fits into.

    In the order of falling size, so time is near linear in the number of parts.
    """
    order = np.argsort(-pairs, kind="stable")
    starts, pairs = starts[order], pairs[order]
    piece, left = _fitted(pairs, length)
    padded = np.flatnonzero(left)
    piece = np.append(piece, padded)
    order = np.argsort(piece, kind="stable")  # by falling size, and padding last
    starts = np.append(starts, np.full_like(padded, NOWHERE))[order]
    lengths = np.append(pairs, left[padded])[order]
    labels = np.where(starts == NOWHERE, NOWHERE, starts + lengths)
    first = np.searchsorted(piece[order], np.arange(len(left) + 1))
    return _bucket(Segments(starts, lengths, labels), first, length)


class _Room:
    """Unfinished pieces by what is left free in them."""

    def __init__(self) -> None:
        self.classes: dict[int, list[NDArray[np.int64]]] = {}
        self._sorted: list[int] = []

    def keep(self, pieces: NDArray[np.int64], left: int) -> None:
        """Note what is left free in ``pieces``."""
        if not len(pieces):
            return
        if left not in self.classes:
            insort(self._sorted, left)
        self.classes.setdefault(left, []).append(pieces)

    def take(self, size: int) -> tuple[NDArray[np.int64], int] | None:
        """Pieces of the fullest class with room for ``size``, and their room; None has none."""
        at = bisect_left(self._sorted, size)
        if at == len(self._sorted):
            return None
        left = self._sorted[at]
        pieces = self.classes[left].pop()
        if not self.classes[left]:
            del self.classes[left], self._sorted[at]
        return pieces, left


def _fitted(sizes: NDArray[np.int64], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``[parts]`` piece of each, for falling sizes, and ``[pieces]`` what is left free in each.

    All parts of one size are placed together: the pieces of the fullest class with room take as
    many of them as they can, one piece after the other, then those of the next class.
    """
    piece, room, pieces, done = np.empty_like(sizes), _Room(), 0, 0
    values, counts = np.unique(-sizes, return_counts=True)
    stops: list[int] = np.cumsum(counts).tolist()
    for size, stop in zip((-values).tolist(), stops, strict=True):
        while done < stop:
            found, left = room.take(size) or (np.arange(pieces, pieces + stop - done), length)
            each = left // size
            used = min(len(found), -(-(stop - done) // each))
            if left == length:
                pieces += used
            else:
                room.keep(found[used:], left)
            placed = min(used * each, stop - done)
            piece[done : done + placed] = np.repeat(found[:used], each)[:placed]
            done += placed
            full = placed // each
            room.keep(found[:full], left - each * size)
            room.keep(found[full:used], left - placed % each * size)
    free = np.zeros(pieces, np.int64)
    for left, groups in room.classes.items():
        free[np.concatenate(groups)] = left
    return piece, free


def _bucket(
    segments: Segments, first: NDArray[np.int64], length: int, *, joined: bool = False
) -> Bucket:
    targets = np.add.reduceat(np.append(segments.targets, 0), first[:-1])
    packing = Packing(
        first=first,
        lengths=segments.lengths,
        labels=segments.labels,
        targets=targets,
        joined=joined,
    )
    return Bucket(length=length, starts=segments.starts, packing=packing, kind="packed")
