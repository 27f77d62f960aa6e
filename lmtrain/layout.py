"""SequenceLayout: which documents a packed row holds, and which span of it is here."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor


T = TypeVar("T")


@dataclass(frozen=True)
class SequenceLayout:
    """The documents of a packed row, and the contiguous span of it that this rank holds.

    ``bounds`` is strictly increasing: 0 = first document < … < total, the same on every rank and
    known on the host. Derived tensors are built once, on ``device``, and cached.

    Raises:
        ValueError: ``bounds`` does not start at 0 or does not increase, or the span leaves the row.
    """

    bounds: tuple[int, ...]
    start: int
    stop: int
    device: torch.device = field(default=torch.device("cpu"), compare=False)
    _derived: dict[Any, Any] = field(
        default_factory=dict[Any, Any], init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.bounds[:1] != (0,) or any(b <= a for a, b in pairwise(self.bounds)):
            raise ValueError(f"bounds must start at 0 and strictly increase, got {self.bounds[:8]}")
        if not 0 <= self.start <= self.stop <= self.bounds[-1]:
            raise ValueError(
                f"span [{self.start}, {self.stop}) leaves the row of {self.bounds[-1]}"
            )

    @classmethod
    def whole(cls, bounds: Iterable[int]) -> Self:
        """One process holds the whole row."""
        bounds = tuple(bounds)
        return cls(bounds, 0, bounds[-1])

    @classmethod
    def of_lengths(cls, lengths: Iterable[int]) -> Self:
        """The whole row of documents of these lengths; empty documents are removed."""
        return cls.whole(accumulate((n for n in lengths if n), initial=0))

    def shard(self, rank: int, world: int) -> Self:
        """The span of ``rank`` when this span is cut into ``world`` equal ones."""
        length, rest = divmod(len(self), world)
        if rest:
            raise ValueError(f"a span of {len(self)} tokens does not divide by {world} ranks")
        start = self.start + rank * length
        return replace(self, start=start, stop=start + length)

    def gathered(self) -> Self:
        """The whole row."""
        return replace(self, start=0, stop=self.bounds[-1])

    def widened(self, left: int) -> Self:
        """The span with up to ``left`` more tokens before it."""
        return replace(self, start=max(0, self.start - left))

    def at(self, rank: int) -> Self:
        """The span of another rank; all ranks hold equally many tokens."""
        return replace(self, start=rank * len(self), stop=(rank + 1) * len(self))

    def spans(self, ranks: int) -> list[Self]:
        """The span of each of ``ranks`` ranks."""
        return [self.at(rank) for rank in range(ranks)]

    def restricted(self, start: int, stop: int) -> Self:
        """The part ``[start, stop)`` of the row as a row of its own; no document crosses its ends.

        The span here lies inside.
        """
        inside = (b - start for b in self.bounds if start <= b <= stop)
        return type(self)(tuple(inside), self.start - start, self.stop - start, self.device)

    def degree(self, ranks: int) -> int:
        """The fewest neighbours, a divisor of ``ranks``, whose spans no document leaves."""
        borders = set(self.bounds)
        return next(
            degree
            for degree in range(1, ranks + 1)
            if ranks % degree == 0
            and borders.issuperset(range(0, self.bounds[-1], degree * len(self)))
        )

    def to(self, device: torch.device | str) -> Self:
        """The same layout with its tensors on ``device``."""
        return replace(self, device=torch.device(device))

    def __len__(self) -> int:
        """Tokens in the span."""
        return self.stop - self.start

    def lookback(self, window: int) -> int:
        """How many tokens before the span a window of ``window`` tokens can see from it."""
        return min(window - 1, self.start - self.opened)

    @property
    def opened(self) -> int:
        """Where the document of the span's first token starts in the row."""
        return self.bounds[bisect_right(self.bounds, self.start) - 1]

    @property
    def closed(self) -> int:
        """Where the document of the span's last token ends in the row."""
        return self.bounds[bisect_left(self.bounds, self.stop)]

    @property
    def continues(self) -> bool:
        """Whether the first document of the span began before it."""
        return self.opened != self.start

    @property
    def spills(self) -> bool:
        """Whether the last document of the span goes on after it."""
        return self.closed != self.stop

    @property
    def alive(self) -> bool:
        """Whether one document covers the whole span and began before it."""
        return self.continues and len(self.lengths) <= 1

    def derive(self, build: Callable[..., T], *args: Any) -> T:
        """``build(self, *args)``, built once for this layout: index maps and masks of a kernel."""
        key = (build, *args)
        if key not in self._derived:
            self._derived[key] = build(self, *args)
        return self._derived[key]

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the documents, or parts of documents, inside the span."""
        inside = [b for b in self.bounds if self.start < b < self.stop]
        return tuple(b - a for a, b in pairwise([self.start, *inside, self.stop]) if b > a)

    @cached_property
    def uniform(self) -> tuple[int, int] | None:
        """``(documents, length)`` when all documents, or parts, of the span have one length."""
        lengths = self.lengths
        return (len(lengths), lengths[0]) if lengths and len(set(lengths)) == 1 else None

    @cached_property
    def offsets(self) -> Tensor:
        """``[documents + 1]`` int32: where the documents of the span start, and its length."""
        return self.tensor([0, *accumulate(self.lengths)], torch.int32)

    @cached_property
    def document(self) -> Tensor:
        """``[t]`` int64: index in the row of each token's document."""
        tokens = torch.arange(self.start, self.stop, device=self.device)
        return torch.bucketize(tokens, self.tensor(self.bounds[1:]), right=True)

    @cached_property
    def position(self) -> Tensor:
        """``[t]`` int64: offset of each token in its document."""
        tokens = torch.arange(self.start, self.stop, device=self.device)
        return tokens - self.tensor(self.bounds)[self.document]

    @cached_property
    def opens(self) -> Tensor:
        """``[t]`` bool: True where a document starts."""
        return self.position == 0

    def tensor(
        self, values: Sequence[float] | NDArray[Any], dtype: torch.dtype = torch.int64
    ) -> Tensor:
        """``values`` on the device; a copy that blocks would wait for all that it was given."""
        return torch.as_tensor(values, dtype=dtype).to(self.device, non_blocking=True)
