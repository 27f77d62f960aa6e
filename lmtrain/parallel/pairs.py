"""What the ranks of a ring compute with the keys of each other: pairs, and rows they add to."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from lmtrain.ops.tiles import visible
from lmtrain.parallel.routes import owned_by

if TYPE_CHECKING:
    from lmtrain.ops.tiles import Stretch
    from lmtrain.parallel.shape import Block


class Meeting(NamedTuple):
    """Queries of one rank and keys of another."""

    pairs: int = 0
    """Of a query and a key that it sees."""
    queries: int = 0
    """That see any; twice those that do in two tiles."""
    keys: int = 0
    """That are seen."""


class Work(NamedTuple):
    """All meetings of a block of ranks, by the rank of the queries and that of the keys."""

    meetings: tuple[tuple[Meeting, ...], ...]

    @property
    def ideal(self) -> float:
        """Pairs a rank, if all had equally many."""
        return sum(m.pairs for row in self.meetings for m in row) / len(self.meetings)

    @property
    def most(self) -> int:
        """Pairs of the rank that has most."""
        return max(sum(m.pairs for m in row) for row in self.meetings)

    def step(self, number: int, cost: Callable[[Meeting], float]) -> float:
        """The largest cost of a rank at a step of the ring: with keys from so many ranks before."""
        return max(cost(row[i - number]) for i, row in enumerate(self.meetings))


@lru_cache(64)
def work(block: Block, window: int | None, *, zigzag: bool = False) -> Work:
    """What every two ranks of a ring over ``block`` have to do with each other."""
    owned = [owned_by(r, block.ranks, block.length, zigzag=zigzag) for r in range(block.ranks)]

    def meet(queries: list[Stretch], keys: list[Stretch]) -> Meeting:
        found = (visible(block.bounds, q, k, window) for q in queries for k in keys)
        tiles = [tile for some in found for tile in some]
        return Meeting(
            sum(tile.pairs for tile in tiles),
            sum(len(tile.queries.starts) * tile.queries.length for tile in tiles),
            sum(len(tile.keys.starts) * tile.keys.length for tile in tiles),
        )

    return Work(tuple(tuple(meet(queries, keys) for keys in owned) for queries in owned))
