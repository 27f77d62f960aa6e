"""Synthetic tasks: rows of tokens whose answers are known, drawn as a function of seed and number.

A task draws rows of any length; every row is one document. Seed, length and number decide a row
alone, so any process draws any rows, and all see the same.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from lmtrain.batch import IGNORED
from lmtrain.data.permutation import key_words, mix

if TYPE_CHECKING:
    from numpy.typing import NDArray

TENTHS = tuple(f"{10 * n}-{10 * n + 10} %" for n in range(10))
"""Names of groups by depth."""


class Examples(NamedTuple):
    """Rows of a task. A target is what follows its token; most tokens have none."""

    tokens: NDArray[np.int64]
    """``[rows, length]``."""
    targets: NDArray[np.int64]
    """``[rows, length]``; ``IGNORED`` where no loss is taken."""
    asked: NDArray[np.bool_]
    """``[rows, length]``: targets that only one answer fits, which are scored."""
    group: NDArray[np.int64]
    """``[rows]``: by what scores are told apart, an index of ``Task.groups``."""

    @classmethod
    def of(
        cls,
        tokens: NDArray[np.int64],
        targets: NDArray[np.int64],
        group: NDArray[np.int64] | None = None,
    ) -> Examples:
        """Rows of which every target is asked for; without groups, all are of the first."""
        none = np.zeros(len(tokens), np.int64)
        return cls(tokens, targets, targets != IGNORED, none if group is None else group)


class RowRandom:
    """Random numbers of rows, each a function of the row's number and of how many came before.

    Args:
        rows: ``[rows]`` numbers of the rows.
        key: of all of them.
    """

    def __init__(self, rows: NDArray[np.int64], *key: int | str) -> None:
        self._state = mix(rows.astype(np.uint64) + key_words(*key, count=1))
        self._drawn = 0

    def __len__(self) -> int:
        """How many rows."""
        return len(self._state)

    def integers(self, below: int, *shape: int) -> NDArray[np.int64]:
        """``[rows, *shape]`` from 0 to ``below`` - 1; ``below`` is at most 2^32."""
        high = self._words(*shape) >> np.uint64(32)
        return (high * np.uint64(below) >> np.uint64(32)).astype(np.int64)

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """``[rows, *shape]`` in (0, 1)."""
        return ((self._words(*shape) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53

    def order(self, count: int) -> NDArray[np.int64]:
        """``[rows, count]``: a permutation in each row."""
        return np.argsort(self._words(count), axis=1)

    def _words(self, *shape: int) -> NDArray[np.uint64]:
        """The next of splitmix64 (Steele et al. 2014), in every row."""
        count = prod(shape)
        steps = np.arange(self._drawn + 1, self._drawn + count + 1, dtype=np.uint64)
        self._drawn += count
        words = mix(self._state[:, None] + steps * np.uint64(0x9E3779B97F4A7C15))
        return words.reshape(len(self), *shape)


class Task(Protocol):
    """Something that can be asked at any length."""

    @property
    def vocab_size(self) -> int:
        """Tokens are below this."""
        ...

    @property
    def shortest(self) -> int:
        """The least length of a row."""
        ...

    @property
    def groups(self) -> tuple[str, ...]:
        """What scores are told apart by; at least one."""
        ...

    def targets(self, length: int) -> int:
        """Targets of every row of this length."""
        ...

    def draw(self, random: RowRandom, length: int) -> Examples:
        """Rows of ``length`` tokens, at least ``shortest``."""
        ...


class Score(NamedTuple):
    """How often answers were right."""

    answers: float
    """Share of the asked tokens."""
    rows: float
    """Share of the rows with every asked token right."""
    by_group: dict[str, float]
    """``answers`` of each group that was drawn."""


def examples(task: Task, rows: NDArray[np.int64], *, seed: int, length: int) -> Examples:
    """The rows of these numbers.

    Raises:
        ValueError: they are too short for the task.
    """
    if length < task.shortest:
        raise ValueError(
            f"rows of {length} tokens are too short for {task}: use {task.shortest} or more"
        )
    return task.draw(RowRandom(rows, repr(task), seed, length), length)


def score(
    task: Task, right: NDArray[np.int64], asked: NDArray[np.int64], group: NDArray[np.int64]
) -> Score:
    """From the right answers, the asked tokens and the group of each row, ``[rows]`` each."""
    by_group = {
        name: float(right[here].sum() / asked[here].sum())
        for number, name in enumerate(task.groups)
        if (here := group == number).any()
    }
    return Score(float(right.sum() / asked.sum()), float((right == asked).mean()), by_group)


def unanswered(rows: int, length: int) -> NDArray[np.int64]:
    """Targets ``[rows, length]`` of which none is set."""
    return np.full((rows, length), IGNORED, np.int64)


def distinct(random: RowRandom, count: int, below: int) -> NDArray[np.int64]:
    """``[rows, count]`` numbers below ``below``, no two of a row equal, in random order."""
    if below <= 4 * count:
        return random.order(below)[:, :count]
    # Numbers that may repeat, sorted and moved apart by their place, are distinct.
    drawn = np.sort(random.integers(below - count + 1, count), axis=1) + np.arange(count)
    return np.take_along_axis(drawn, random.order(count), axis=1)


def places(random: RowRandom, count: int, below: int) -> NDArray[np.int64]:
    """``[rows, count]`` different places below ``below``, ascending."""
    return np.sort(distinct(random, count, below), axis=1)


def tenth(place: NDArray[np.int64], below: int) -> NDArray[np.int64]:
    """Which of ``TENTHS`` a place lies in."""
    return place * 10 // below
