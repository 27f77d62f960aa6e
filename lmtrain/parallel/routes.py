"""How far the keys of each rank travel around a ring, and who sees which of them.

Every rank derives the same routes from the bounds of the row, so both ends of a message know its
size without asking. A route is kept as numbers of keys, because of a stretch of keys a later query
sees the last ones: those of the document that is open where the query's own stretch starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lmtrain.ops.tiles import Stretch, Tile, seen, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.layout import SequenceLayout

Counts: TypeAlias = "tuple[int, ...]"
"""Keys at the end of each stretch of a rank."""


class Meeting(NamedTuple):
    """A tile of this rank's queries and a stretch of keys that is with it."""

    stretch: int
    """Which of the stretches that the rank of the keys owns."""
    tile: Tile
    """Placed in the queries of this rank, and in the keys of the stretch that any of them sees."""


@dataclass(frozen=True)
class Route:
    """Where the keys of one rank are needed."""

    seen: tuple[Counts, ...]
    """How many the rank at each distance after it sees; the last, a whole round away, sees none."""

    @cached_property
    def reach(self) -> int:
        """The distance of the farthest rank that sees any."""
        return max((s for s, counts in enumerate(self.seen) if s and any(counts)), default=0)

    def ahead(self, distance: int) -> Counts:
        """Keys that ranks at ``distance`` or farther see: what goes there."""
        return self._ahead[min(distance, len(self.seen) - 1)]

    def behind(self, distance: int) -> Counts:
        """Keys that ranks at distances 1 to ``distance`` see: whose gradients have begun."""
        return self._behind[max(distance, 0)]

    @cached_property
    def _ahead(self) -> list[Counts]:
        return list(accumulate(self.seen[::-1], _most))[::-1]

    @cached_property
    def _behind(self) -> list[Counts]:
        return list(accumulate(self.seen[1:], _most, initial=self.seen[-1]))


@dataclass(frozen=True)
class Routes:
    """The ring of the ranks of a row, and what one of them computes in it.

    At step ``s`` the keys of the rank ``s`` places before are here. What a rank sends at a step is
    counted for any rank, so that the receiver finds the same number.
    """

    routes: tuple[Route, ...]
    steps: tuple[tuple[Meeting, ...], ...]
    """What the queries of this rank meet at each step, and at the one after the last: nothing."""

    @property
    def size(self) -> int:
        """Ranks of the ring."""
        return len(self.routes)

    def of(self, rank: int, step: int) -> Route:
        """The route of the keys that are with ``rank`` at ``step``."""
        return self.routes[(rank - step) % self.size]

    def onward(self, rank: int, step: int) -> Counts:
        """Keys that ``rank`` sends to the next rank during ``step``: those it has then."""
        return self.of(rank, step).ahead(step + 1)

    def followed(self, rank: int, step: int) -> Counts:
        """Gradients that ``rank`` sends to the next rank during ``step``, one step behind keys."""
        route = self.of(rank, step - 1)
        return route.behind(step - 1 if step - 1 < route.reach else 0)

    def returned(self, rank: int, step: int) -> Counts:
        """Gradients that ``rank`` sends home during ``step``: nobody after it sees those keys."""
        route = self.of(rank, step - 1)
        return route.behind(step - 1 if step - 1 == route.reach else 0)


def routes(layout: SequenceLayout, ranks: int, window: int | None, zigzag: bool) -> Routes:  # noqa: FBT001
    """The ring of the ranks that hold a row, for the rank whose span ``layout`` is.

    Raises:
        ValueError: the row is not ``ranks`` such spans, or has no two equal halves in each of them
            where ``zigzag`` asks for them.
    """
    rank, bounds = check(layout, ranks), layout.bounds
    if zigzag and len(layout) % 2:
        raise ValueError(
            f"zigzag cuts spans in halves, and {len(layout)} tokens a rank are odd: "
            f"use a multiple of {2 * ranks} tokens a row, or ring"
        )
    owned = [owned_by(rank, ranks, len(layout), zigzag=zigzag) for rank in range(ranks)]
    found = tuple(_route(bounds, owned, source, window) for source in range(ranks))
    steps = (
        tuple(_meetings(bounds, owned[rank], owned[(rank - s) % ranks], window))
        for s in range(ranks)
    )
    return Routes(found, (*steps, ()))


def check(layout: SequenceLayout, ranks: int) -> int:
    """The rank whose span ``layout`` is, in a row of ``ranks`` spans.

    Raises:
        ValueError: the row is not that.
    """
    rank, rest = divmod(layout.start, len(layout))
    if rest or rank >= ranks or layout.bounds[-1] != ranks * len(layout):
        raise ValueError(
            f"a span [{layout.start}, {layout.stop}) of a row of {layout.bounds[-1]} tokens is not "
            f"one of {ranks} equal spans: restrict the layout to the row that these ranks share"
        )
    return rank


def owned_by(rank: int, ranks: int, length: int, *, zigzag: bool) -> list[Stretch]:
    """The stretches of a ring's rank: its span of ``length``, or an early half and a late one."""
    if not zigzag:
        return [(rank * length, (rank + 1) * length)]
    half = length // 2
    return [(i * half, (i + 1) * half) for i in (rank, 2 * ranks - 1 - rank)]


def _route(
    bounds: tuple[int, ...], owned: list[list[Stretch]], source: int, window: int | None
) -> Route:
    ranks, own = len(owned), owned[source]
    seen_at = [
        tuple(_keys(bounds, owned[(source + s) % ranks], keys, window) for keys in own)
        for s in range(ranks)
    ]
    return Route((*seen_at, (0,) * len(own)))


def _keys(
    bounds: tuple[int, ...], queries: list[Stretch], keys: Stretch, window: int | None
) -> int:
    """How many of the last keys any of the queries sees; all, if they are its own."""
    if keys in queries:
        return keys[1] - keys[0]
    found = (seen(bounds, stretch, keys, window) for stretch in queries)
    return max((last - first for _, (first, last) in filter(None, found)), default=0)


def _meetings(
    bounds: tuple[int, ...],
    queries: list[Stretch],
    keys: list[Stretch],
    window: int | None,
) -> Iterator[Meeting]:
    """What queries see of the keys of another rank, or of their own."""
    starts = accumulate((stop - start for start, stop in queries[:-1]), initial=0)
    for at, stretch in zip(starts, queries, strict=True):
        for index, own in enumerate(keys):
            count = _keys(bounds, queries, own, window)
            came = own[1] - count, own[1]
            if count:
                found = visible(bounds, stretch, came, window, at=(at, 0))
                yield from (Meeting(index, tile) for tile in found)


def _most(a: Counts, b: Counts) -> Counts:
    return tuple(map(max, a, b))
