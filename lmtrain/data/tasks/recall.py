"""Tasks of recall: values asked for by their keys, after much else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lmtrain.data.tasks.task import TENTHS, Examples, distinct, tenth, unanswered

if TYPE_CHECKING:
    from lmtrain.data.tasks.task import RowRandom


@dataclass(frozen=True, kw_only=True)
class Mqar:
    """Multi-query associative recall: pairs, then every key again somewhere, followed by its value.

    Keys come again the sooner the likelier, by a power law (Arora et al. 2024, arXiv 2312.04927).
    Token 0 fills; keys, then values follow.
    """

    pairs: int = 8
    keys: int = 64
    values: int = 64
    power: float = 0.01
    """Exponent + 1 of the law of distances: small values ask soon."""
    groups = ("all",)

    def __post_init__(self) -> None:
        """Every pair has a key of its own."""
        if self.pairs > self.keys:
            raise ValueError(
                f"pairs={self.pairs} need as many keys, and there are keys={self.keys}: raise keys"
            )

    @property
    def vocab_size(self) -> int:
        """The filler, keys and values."""
        return 1 + self.keys + self.values

    @property
    def shortest(self) -> int:
        """Every pair twice."""
        return 4 * self.pairs

    def targets(self, length: int) -> int:  # noqa: ARG002  all rows alike
        """One a pair."""
        return self.pairs

    def draw(self, random: RowRandom, length: int) -> Examples:
        """Values are targets of the second occurrence of their keys."""
        rows, count, slots = len(random), self.pairs, (length - 2 * self.pairs) // 2
        keys = 1 + distinct(random, count, self.keys)
        values = 1 + self.keys + random.integers(self.values, count)
        law = (self.power - 1) * np.log(np.arange(1, slots + 1))
        slot = np.argsort(-(law - np.log(-np.log(random.uniform(slots)))), axis=1)[:, :count]
        tokens, targets = np.zeros((rows, length), np.int64), unanswered(rows, length)
        tokens[:, : 2 * count : 2], tokens[:, 1 : 2 * count : 2] = keys, values
        at, row = 2 * count + 2 * slot, np.arange(rows)[:, None]
        tokens[row, at], tokens[row, at + 1], targets[row, at] = keys, values, values
        return Examples.of(tokens, targets)


@dataclass(frozen=True, kw_only=True)
class KeyValue:
    """As many pairs as the row holds, then one key: its value, told apart by where the pair stood.

    Lost in the Middle (Liu et al. 2023, arXiv 2307.03172). Keys have two tokens.
    """

    symbols: int = 64
    """Tokens of keys, and as many of values."""
    groups = TENTHS

    @property
    def vocab_size(self) -> int:
        """The question, tokens of keys, tokens of values."""
        return 1 + 2 * self.symbols

    @property
    def shortest(self) -> int:
        """Ten pairs, one for each group."""
        return 33

    def targets(self, length: int) -> int:  # noqa: ARG002  all rows alike
        """The value."""
        return 1

    def draw(self, random: RowRandom, length: int) -> Examples:
        """The target of the last token is the value; the row begins with fillers if one is over."""
        rows, pairs = len(random), min((length - 3) // 3, self.symbols**2)
        keys = distinct(random, pairs, self.symbols**2)
        key = 1 + np.stack([keys // self.symbols, keys % self.symbols], axis=-1)
        values = 1 + self.symbols + random.integers(self.symbols, pairs)
        asked, row = random.integers(pairs), np.arange(rows)
        listed = np.concatenate([key, values[..., None]], axis=-1).reshape(rows, 3 * pairs)
        tokens, targets = np.zeros((rows, length), np.int64), unanswered(rows, length)
        tokens[:, length - 3 * pairs - 3 : length - 3] = listed
        tokens[:, -2:] = key[row, asked]
        targets[:, -1] = values[row, asked]
        return Examples.of(tokens, targets, tenth(asked, pairs))


@dataclass(frozen=True, kw_only=True)
class Needles:
    """Needles in noise: marked keys with numbers of several digits; at the end one is asked for.

    One needle is the passkey task (Mohtashami and Jaggi 2023, arXiv 2305.16300), several are the
    multi-key needles of RULER (Hsieh et al. 2024, arXiv 2404.06654).
    """

    needles: int = 1
    digits: int = 5
    keys: int = 32
    noise: int = 64
    """Tokens of the haystack."""
    groups = TENTHS

    def __post_init__(self) -> None:
        """Every needle has a key of its own."""
        if self.needles > self.keys:
            raise ValueError(
                f"needles={self.needles} need as many keys, and there are keys={self.keys}: raise "
                "keys"
            )

    @property
    def vocab_size(self) -> int:
        """Two marks, ten digits, keys, noise."""
        return 12 + self.keys + self.noise

    @property
    def shortest(self) -> int:
        """The needles and the question."""
        return (self.needles + 1) * (self.digits + 2) - 1

    def targets(self, length: int) -> int:  # noqa: ARG002  all rows alike
        """The digits of one needle."""
        return self.digits

    def draw(self, random: RowRandom, length: int) -> Examples:
        """The number is asked for digit by digit; groups are the depth of the needle asked for."""
        rows, size, end = len(random), self.digits + 2, length - self.digits
        keys = 12 + distinct(random, self.needles, self.keys)
        digits = 2 + random.integers(10, self.needles, self.digits)
        marks = np.zeros_like(keys)
        needle = np.concatenate([marks[..., None], keys[..., None], digits], axis=-1)
        tokens = 12 + self.keys + random.integers(self.noise, length)
        free = end - 1 - self.needles * size
        before = np.sort(random.integers(free + 1, self.needles), axis=1)
        begin = before + size * np.arange(self.needles)
        row = np.arange(rows)
        tokens[row[:, None, None], begin[..., None] + np.arange(size)] = needle
        asked = random.integers(self.needles)
        tokens[:, end - 1], tokens[:, end] = 1, keys[row, asked]
        tokens[:, end + 1 :] = digits[row, asked, :-1]
        targets = unanswered(rows, length)
        targets[:, end:] = digits[row, asked]
        return Examples.of(tokens, targets, tenth(begin[row, asked], end))


@dataclass(frozen=True, kw_only=True)
class Induction:
    """A mark somewhere, and again at the end: what followed it the first time.

    Olsson et al. 2022 (arXiv 2209.11895), as in Gu and Dao 2023 (arXiv 2312.00752), section 4.1.
    """

    symbols: int = 15
    groups = TENTHS

    @property
    def vocab_size(self) -> int:
        """The mark and the symbols."""
        return 1 + self.symbols

    @property
    def shortest(self) -> int:
        """The mark twice, a symbol between."""
        return 3

    def targets(self, length: int) -> int:  # noqa: ARG002  all rows alike
        """The last."""
        return 1

    def draw(self, random: RowRandom, length: int) -> Examples:
        """Groups are where the mark stood."""
        rows, tokens = len(random), 1 + random.integers(self.symbols, length)
        at, row = random.integers(length - 2), np.arange(rows)
        tokens[row, at], tokens[:, -1] = 0, 0
        targets = unanswered(rows, length)
        targets[:, -1] = tokens[row, at + 1]
        return Examples.of(tokens, targets, tenth(at, length - 2))
