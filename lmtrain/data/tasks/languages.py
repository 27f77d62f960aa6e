"""In-context languages: strings of an automaton that every row draws anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lmtrain.data.tasks.task import Examples

if TYPE_CHECKING:
    from lmtrain.data.tasks.task import RowRandom


@dataclass(frozen=True, kw_only=True)
class RegularLanguages:
    """A walk through a random automaton of which only the symbols are seen.

    Akyürek et al. 2024 (arXiv 2401.12973). Every state has one or two edges; states may share
    symbols, so a state shows only in what went before. All symbols are learnt. Asked for are those
    that leave a state with one edge, as nothing else can follow, once it was left before.
    """

    states: int = 8
    symbols: int = 16
    groups = ("all",)

    def __post_init__(self) -> None:
        """The two edges of a state have different symbols."""
        if self.symbols < 2:  # noqa: PLR2004
            raise ValueError(f"symbols={self.symbols} cannot tell two edges apart: use 2 or more")

    @property
    def vocab_size(self) -> int:
        """The symbols."""
        return self.symbols

    @property
    def shortest(self) -> int:
        """Enough to come back to some state."""
        return 2 * self.states + 2

    def targets(self, length: int) -> int:
        """All."""
        return length

    def draw(self, random: RowRandom, length: int) -> Examples:
        """Symbols of the walk; a target is the next one."""
        rows = len(random)
        single = random.uniform(self.states) < 0.5  # noqa: PLR2004
        single[:, 0] = True  # so that something is asked for
        following = random.integers(self.states, self.states, 2)
        following[:, :, 0] = (np.arange(self.states) + 1) % self.states  # all are reached
        first = random.integers(self.symbols, self.states)
        other = (first + 1 + random.integers(self.symbols - 1, self.states)) % self.symbols
        symbol = np.stack([first, other], axis=-1)
        choice = random.integers(2, length + 1)
        walk = np.empty((rows, length + 1), np.int64)
        left, asked = np.zeros((rows, self.states), bool), np.zeros((rows, length + 1), bool)
        state, row = np.zeros(rows, np.int64), np.arange(rows)
        for step in range(length + 1):
            edge = np.where(single[row, state], 0, choice[:, step])
            walk[:, step] = symbol[row, state, edge]
            asked[:, step] = single[row, state] & left[row, state]
            left[row, state] = True
            state = following[row, state, edge]
        return Examples(walk[:, :-1], walk[:, 1:], asked[:, 1:], np.zeros(rows, np.int64))
