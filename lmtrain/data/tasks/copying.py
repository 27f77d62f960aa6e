"""Tasks of copying: a list, a mark, then the list again: as it was, without noise, or in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lmtrain.data.tasks.task import Examples, places, unanswered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lmtrain.data.tasks.task import RowRandom

MARK, NOISE = 0, 1
"""Ends the list; stands between what is to be copied, and fills."""


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Half of the row is random, the other half is the same (Jelassi et al. 2024, 2402.01032)."""

    symbols: int = 26
    groups = ("all",)

    @property
    def vocab_size(self) -> int:
        """The mark, the filler, the symbols."""
        return 2 + self.symbols

    @property
    def shortest(self) -> int:
        """One symbol and the mark."""
        return 2

    def targets(self, length: int) -> int:
        """The copy."""
        return length // 2

    def draw(self, random: RowRandom, length: int) -> Examples:
        """Every symbol of the copy is asked for."""
        listed = 2 + random.integers(self.symbols, length // 2)
        return _answered(listed, listed, length)


@dataclass(frozen=True, kw_only=True)
class SelectiveCopy:
    """A few symbols among noise, then these alone (Gu and Dao 2023, 2312.00752, section 4.1)."""

    items: int = 16
    symbols: int = 14
    groups = ("all",)

    @property
    def vocab_size(self) -> int:
        """The mark, the noise, the symbols."""
        return 2 + self.symbols

    @property
    def shortest(self) -> int:
        """The symbols, the mark, the symbols but one."""
        return 2 * self.items

    def targets(self, length: int) -> int:  # noqa: ARG002  all rows alike
        """The symbols."""
        return self.items

    def draw(self, random: RowRandom, length: int) -> Examples:
        """Every symbol is asked for, in order."""
        items = 2 + random.integers(self.symbols, self.items)
        listed = np.full((len(random), length - self.items), NOISE)
        at = places(random, self.items, length - self.items)
        np.put_along_axis(listed, at, items, axis=1)
        return _answered(listed, items, length)


@dataclass(frozen=True, kw_only=True)
class Sort:
    """Half of the row is numbers, the other half the same in order."""

    numbers: int = 64
    groups = ("all",)

    @property
    def vocab_size(self) -> int:
        """The mark, the filler, the numbers."""
        return 2 + self.numbers

    @property
    def shortest(self) -> int:
        """One number and the mark."""
        return 2

    def targets(self, length: int) -> int:
        """The sorted half."""
        return length // 2

    def draw(self, random: RowRandom, length: int) -> Examples:
        """Every number of the sorted list is asked for."""
        listed = 2 + random.integers(self.numbers, length // 2)
        return _answered(listed, np.sort(listed, axis=1), length)


def _answered(listed: NDArray[np.int64], answer: NDArray[np.int64], length: int) -> Examples:
    """Rows of a list, the mark, and the answer but its last, after fillers where one is over."""
    rows, begin = len(listed), length - answer.shape[1]
    tokens, targets = np.full((rows, length), NOISE), unanswered(rows, length)
    tokens[:, begin - listed.shape[1] : begin] = listed
    tokens[:, begin], tokens[:, begin + 1 :] = MARK, answer[:, :-1]
    targets[:, begin:] = answer
    return Examples.of(tokens, targets)
