"""Mixes: which source the pieces of a bucket come from, and in which order.

The unit is the cell, the pieces of one bucket from one source. Each cell has an endless order of
its own, keyed by the name of its source: epoch after epoch, each a permutation. A mix deals places
of a bucket to its cells. It does so in blocks: a block holds a fixed number of pieces of each
source, as near to its share as whole pieces allow, what is missing being carried to the next block;
inside a block the sources are shuffled::

    block 0                  block 1
    a b a a b a a b ...      a a b a a a b b ...        a: 1433 of 2048, then 1434, b: the others
    0 0 1 2 1 3 4 2 ...                                 place in the order of the cell

Pieces of a cell are always used in the order of the cell, so those used are known by their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lmtrain.data.permutation import Permutation

BLOCK = 2048
"""Pieces that hold the shares of the sources exactly, to rounding."""

PERIOD = 1 << 21
"""Shares are multiples of its inverse, so the blocks repeat after so many pieces."""


@dataclass(frozen=True, eq=False)
class Quotas:
    """How many of a bucket's first pieces come from each source, at every border of blocks.

    Never further than one piece from the share, never decreasing, and known for any block at once,
    because the table repeats.
    """

    shares: NDArray[np.int64]
    """``[sources]`` of ``PERIOD`` pieces."""
    table: NDArray[np.int64]
    """``[blocks + 1, sources]`` pieces before each block of a period, and before the next one."""

    @classmethod
    def each(cls, shares: Sequence[Sequence[float]]) -> list[Self]:
        """The quotas of several buckets, from the ``shares`` of the sources in each.

        Those of a bucket sum to one, and are rounded to multiples of ``1 / PERIOD``.
        """
        parts = np.array([whole(np.array(part) * PERIOD, PERIOD) for part in shares])
        tables = _tables(parts)
        return [cls(part, tables[:, number]) for number, part in enumerate(parts)]

    def before(self, block: int) -> NDArray[np.int64]:
        """``[sources]`` pieces of each source before a block."""
        periods, rest = divmod(block, PERIOD // BLOCK)
        return self.shares * periods + self.table[rest]


def _tables(shares: NDArray[np.int64]) -> NDArray[np.int64]:
    """``[blocks + 1, buckets, sources]`` from ``[buckets, sources]``: the tables of `Quotas`.

    Whoever would be the first to fall behind its share gets the next piece, as in
    `lmtrain.data.curriculum.extend_quotas`.
    """
    tables = np.zeros((PERIOD // BLOCK + 1, *shares.shape), np.int64)
    never, divisor = np.iinfo(np.int64).max, np.maximum(shares, 1)
    for block in range(1, len(tables)):
        exact = shares * (block * BLOCK)
        counts = np.maximum(tables[block - 1], exact // PERIOD)
        due = np.where(counts * PERIOD < exact, -(-(counts + 1) * PERIOD // divisor), never)
        first = np.argsort(np.argsort(due, axis=1, kind="stable"), axis=1)
        tables[block] = counts + (first < block * BLOCK - counts.sum(1, keepdims=True))
    return tables


def whole(exact: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """``exact`` in integers that sum to ``total``, by largest remainder."""
    whole = np.floor(exact).astype(np.int64)
    largest = np.argsort(whole - exact, kind="stable")
    whole[largest[: total - int(whole.sum())]] += 1
    return whole


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The pieces of one bucket from one source.

    ``used`` of its endless order were drawn before the plan began: by the plans before it.
    """

    source: str
    """Its name; empty where there is only one source without a name."""
    pieces: int
    used: int = 0

    def order(self, places: NDArray[np.int64], *key: int | str) -> NDArray[np.int64]:
        """Pieces at these ascending places of its endless order."""
        epochs, places = np.divmod(places + self.used, self.pieces)
        index = np.empty_like(places)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            index[here] = Permutation(self.pieces, *key, epoch)(places[here])
        return index


@dataclass(frozen=True, kw_only=True, eq=False)
class Mix:
    """The endless order of a bucket, whose pieces stand source by source."""

    cells: Sequence[Cell]
    quotas: Quotas | None
    """None where there is one source."""
    seed: int
    kind: str
    length: int
    """``kind`` and ``length`` of the bucket, which key its order."""

    def pieces(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pieces of the bucket at these places of its order, which follow each other."""
        if self.quotas is None:
            return self.cells[0].order(places, self.seed, self.kind, *self._key(0))
        sources, ordinals = self._dealt(int(places[0]), int(places[-1]) + 1)
        index = np.empty_like(places)
        first = 0
        for number, cell in enumerate(self.cells):
            here = sources == number
            if here.any():
                key = self.seed, self.kind, *self._key(number)
                index[here] = first + cell.order(ordinals[here], *key)
            first += cell.pieces
        return index

    def counts(self, places: int) -> list[int]:
        """How many of the first ``places`` pieces come from each source."""
        if self.quotas is None:
            return [places]
        block, rest = divmod(places, BLOCK)
        counts = self.quotas.before(block)
        if rest:
            sources, _ = self._block(block)
            counts = counts + np.bincount(sources[:rest], minlength=len(self.cells))
        return counts.tolist()

    def _key(self, number: int) -> tuple[int | str, ...]:
        name = self.cells[number].source
        return (name, self.length) if name else (self.length,)

    def _dealt(self, first: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The source of the places ``[first, stop)``, and their places in its cell."""
        start = first // BLOCK
        blocks = [self._block(number) for number in range(start, -(-stop // BLOCK))]
        sources, ordinals = (np.concatenate(part) for part in zip(*blocks, strict=True))
        here = slice(first - start * BLOCK, stop - start * BLOCK)
        return sources[here], ordinals[here]

    def _block(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        assert self.quotas is not None
        before, after = self.quotas.before(number), self.quotas.before(number + 1)
        key = self.seed, "mix", self.kind, self.length, number
        sources, ranks = _shuffled(tuple((after - before).tolist()), key)
        return sources, before[sources] + ranks


@lru_cache(maxsize=64)
def _shuffled(
    counts: tuple[int, ...], key: tuple[int | str, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A block's sources in random order, and how many of the same source stand before each."""
    order = Permutation(BLOCK, *key)(np.arange(BLOCK))
    sources = np.repeat(np.arange(len(counts)), counts)[order]
    grouped = np.argsort(sources, kind="stable")
    ranks = np.empty_like(grouped)
    ranks[grouped] = np.concatenate([np.arange(count) for count in counts])
    return sources, ranks
