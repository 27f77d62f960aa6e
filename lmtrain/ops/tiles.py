"""Which queries see which keys, cut into tiles that need no mask.

Between two stretches of a row, keys first, at most one document is visible: the one open where the
queries start. What a window leaves of that rectangle is again rectangles, and one square whose
query ``i`` sees the keys from ``i`` on: the causal square, turned around.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Stretch: TypeAlias = "tuple[int, int]"
"""Contiguous tokens ``[start, stop)`` of a row."""

_Corner: TypeAlias = "tuple[Shape, Stretch, Stretch]"


class Shape(Enum):
    """Which keys of a tile a query sees."""

    FULL = auto()
    """All of them."""
    CAUSAL = auto()
    """Query ``i`` sees keys ``0 … i`` of a square."""
    FLIPPED = auto()
    """Query ``i`` sees the keys from ``i`` on of a square."""


@dataclass(frozen=True)
class Places:
    """Equally long, disjoint stretches of a tensor's tokens: ``starts`` in order."""

    starts: tuple[int, ...]
    length: int
    _index: dict[torch.device, Tensor] = field(
        default_factory=dict[torch.device, Tensor], init=False, repr=False, compare=False
    )

    def read(self, x: Tensor) -> Tensor:
        """``[t, …] -> [places, length, …]``, a view where the places are evenly spaced."""
        view = self._view(x)
        return x[self._at(x)] if view is None else view

    def write(self, x: Tensor, values: Tensor) -> None:
        """Put ``values [places, length, …]`` into ``x [t, …]``."""
        view = self._view(x)
        if view is None:
            x[self._at(x)] = values
        else:
            view.copy_(values)

    def add(self, x: Tensor, values: Tensor) -> None:
        """Add ``values [places, length, …]`` to ``x [t, …]``."""
        view = self._view(x)
        if view is None:
            x[self._at(x)] += values
        else:
            view.add_(values)

    def _view(self, x: Tensor) -> Tensor | None:
        first, last = self.starts[0], self.starts[-1]
        step, uneven = divmod(last - first, max(1, len(self.starts) - 1))
        if uneven or any(b - a != step for a, b in pairwise(self.starts)):
            return None
        return x[first : last + self.length].unfold(0, self.length, max(1, step)).movedim(-1, 1)

    def _at(self, x: Tensor) -> Tensor:
        if x.device not in self._index:
            places = torch.tensor(self.starts)[:, None] + torch.arange(self.length)
            self._index[x.device] = places.to(x.device, non_blocking=True)
        return self._index[x.device]


@dataclass(frozen=True)
class Tile:
    """Places of queries, and for each of them the place of the keys that it sees."""

    shape: Shape
    queries: Places
    keys: Places

    @property
    def pairs(self) -> int:
        """Visible pairs of a query and a key."""
        rows, columns = self.queries.length, self.keys.length
        each = rows * columns if self.shape is Shape.FULL else rows * (rows + 1) // 2
        return len(self.queries.starts) * each


def visible(
    bounds: Sequence[int],
    queries: Stretch,
    keys: Stretch,
    window: int | None,
    *,
    at: tuple[int, int] = (0, 0),
) -> list[Tile]:
    """What the tokens of ``queries`` see of the tokens of ``keys``.

    Args:
        bounds: where the documents of the row start, and its end.
        queries: a stretch of the row.
        keys: the same stretch, or one that shares no token with it.
        window: tokens that a token sees, itself included; None for its whole document.
        at: where the two stretches start in the tensors that hold them.

    Returns:
        Tiles that cover every visible pair once, placed in those tensors; no place of a tile
        overlaps another of it, and no query of a tile sees nothing.
    """
    corners = (
        _own(bounds, queries, window)
        if queries == keys
        else _earlier(seen(bounds, queries, keys, window), window)
    )
    alike: dict[tuple[Shape, int, int], list[Stretch]] = {}
    for shape, (q, q_stop), (k, k_stop) in corners:
        place = at[0] + q - queries[0], at[1] + k - keys[0]
        alike.setdefault((shape, q_stop - q, k_stop - k), []).append(place)
    return [
        Tile(
            shape,
            Places(tuple(q for q, _ in places), rows),
            Places(tuple(k for _, k in places), columns),
        )
        for (shape, rows, columns), places in alike.items()
    ]


def seen(
    bounds: Sequence[int], queries: Stretch, keys: Stretch, window: int | None
) -> tuple[Stretch, Stretch] | None:
    """The queries that see any of the keys, and the keys that any of them sees.

    None where there are none. The keys, if any, are the last of theirs.
    """
    if keys[1] > queries[0]:
        return None  # from a later place in the row
    document = bisect_right(bounds, queries[0]) - 1
    last = min(queries[1], bounds[document + 1])
    first = max(keys[0], bounds[document])
    if window is not None:
        last = min(last, keys[1] - 1 + window)
        first = max(first, queries[0] - window + 1)
    if queries[0] >= last or first >= keys[1]:
        return None
    return (queries[0], last), (first, keys[1])


def _own(bounds: Sequence[int], stretch: Stretch, window: int | None) -> Iterator[_Corner]:
    """Documents, or their blocks of a window: each its own causal square, and the block before."""
    inside = bounds[bisect_right(bounds, stretch[0]) : bisect_left(bounds, stretch[1])]
    for first, last in pairwise([stretch[0], *inside, stretch[1]]):
        block = last - first if window is None else window
        for start in range(first, last, block):
            here = start, min(start + block, last)
            yield Shape.CAUSAL, here, here
            if start > first:
                yield from _earlier(
                    seen((first, last), here, (start - block, start), window), window
                )


def _earlier(found: tuple[Stretch, Stretch] | None, window: int | None) -> Iterator[_Corner]:
    """A visible rectangle without the corner that the window cuts off."""
    if found is None:
        return
    queries, (first, last) = found
    if window is None or queries[1] - first <= window:
        yield Shape.FULL, queries, (first, last)
        return
    cut = first + window - 1  # the last query that sees every key
    rows = queries[1] - cut
    if queries[0] < cut:
        yield Shape.FULL, (queries[0], cut), (first, last)
    yield Shape.FLIPPED, (cut, queries[1]), (first, first + rows)
    if first + rows < last:
        yield Shape.FULL, (cut, queries[1]), (first + rows, last)
