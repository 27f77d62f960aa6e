"""The configuration of the curriculum: how documents become rows, and in which order."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from lmtrain.data.config import at_least, power_of_two


class CurriculumName(StrEnum):
    """How often each bucket is drawn; see ``lmtrain.data.curriculum``."""

    natural = "natural"
    uniform = "uniform"
    grow_linear = "grow_linear"
    grow_p2 = "grow_p2"
    grow_p100 = "grow_p100"
    shrink_linear = "shrink_linear"
    shrink_p2 = "shrink_p2"
    shrink_p100 = "shrink_p100"
    odds = "odds"
    staircase_linear = "staircase_linear"
    staircase_p2 = "staircase_p2"
    progressive = "progressive"
    fixed = "fixed"
    window_warmup = "window_warmup"

    @property
    def one_length(self) -> bool:
        """Whether all pieces have one length."""
        return self in (CurriculumName.fixed, CurriculumName.window_warmup)

    @property
    def has_odds(self) -> bool:
        """Whether buckets are drawn by odds."""
        return self in (CurriculumName.odds, CurriculumName.uniform) or self.startswith(
            ("grow", "shrink")
        )


class ViewName(StrEnum):
    """How the documents become pieces; see ``lmtrain.data.views``."""

    decompose = "decompose"
    concat = "concat"
    concat_masked = "concat_masked"
    best_fit = "best_fit"


class Randomness(StrEnum):
    """Whether the batches of a cycle arrive at random or at regular times."""

    poisson = "poisson"
    deterministic = "deterministic"


class OddsScale(StrEnum):
    """What the odds of a bucket are multiplied by."""

    none = "none"
    bucket_size = "bucket_size"


class LongDocuments(StrEnum):
    """What happens to documents longer than ``max_length``."""

    greedy = "greedy"
    random = "random"
    window = "window"


class Remainder(StrEnum):
    """What happens to the rest of a document that is shorter than ``min_length``."""

    drop = "drop"
    pack = "pack"
    keep = "keep"


@dataclass(kw_only=True)
class CurriculumConfig:
    """How documents are cut into pieces, and in which order their lengths are seen."""

    name: CurriculumName = CurriculumName.grow_p2
    """natural: random order; uniform, grow_*, shrink_*: odds of the buckets; odds: any odds;
    staircase_*: shares that move from bucket to bucket; progressive: longer in stages; fixed: one
    length; window_warmup: one length, seen through a growing window."""
    view: ViewName = ViewName.decompose
    """decompose: pieces inside one document; concat: documents run on and are cut at ``length``;
    concat_masked: the same rows with the borders of documents; best_fit: whole documents packed
    into ``length``, longer ones cut. Those of one length need name=fixed or window_warmup."""
    min_length: int = 64
    """Length of the shortest bucket, a power of two."""
    max_length: int = 1024
    """Length of the longest bucket, a power of two."""
    length: int | None = None
    """With name=fixed or window_warmup: the one length; null is ``max_length``."""
    cycles: int = 8
    """Cycles in one pass over the data."""
    cycle_steps: int | None = None
    """Steps in a cycle; null is the steps of one pass divided by ``cycles``. Set it so that a run
    shorter than a pass sees whole cycles."""
    randomness: Randomness = Randomness.poisson
    """poisson: draw buckets by their odds; deterministic: the same shares at regular times."""
    odds: list[float] | None = None
    """With name=odds: one positive number per bucket, shortest first."""
    odds_scale: OddsScale = OddsScale.none
    """none: odds as they are; bucket_size: times the tokens of the bucket, as the published code
    of dataset decomposition does."""
    long_docs: LongDocuments = LongDocuments.greedy
    """greedy: documents above ``max_length`` give as many longest pieces as they hold, and the rest
    goes to shorter buckets; random: pieces of random length, shorter ones more often, while at
    least two longest are left, as in the published code; window: longest pieces only, the last one
    moved back to overlap."""
    remainder: Remainder = Remainder.drop
    """drop: the rest below ``min_length`` is not used; pack: rests are laid side by side, with the
    borders of documents, in a bucket of rows of ``min_length``; keep: it is cut on, down to
    ``floor``."""
    floor: int = 16
    """With remainder=keep: length of the shortest piece, a power of two."""
    stages: list[list[int]] = dataclasses.field(default_factory=list[list[int]])
    """With name=progressive: [[tokens, max length], ...]; after the last all lengths are drawn."""
    window_start: int = 32
    """With name=window_warmup: the first window, in tokens."""
    window_rate: float = 0.125
    """With name=window_warmup: tokens by which the window grows each step, until it is the row."""
    final_long: float = 0.0
    """Share of the run's tokens, at its end, that comes from the longest buckets only."""

    @property
    def lengths(self) -> list[int]:
        """Lengths of all buckets, shortest first."""
        first = self.floor if self.remainder == Remainder.keep else self.min_length
        return [1 << i for i in range(first.bit_length() - 1, self.max_length.bit_length())]

    @property
    def drawn_lengths(self) -> list[int]:
        """Lengths that training documents are cut into, shortest first."""
        return [self.length or self.max_length] if self.name.one_length else self.lengths

    def check(self) -> list[str]:
        """Every problem that can be seen without data, a sentence each."""
        problems = [
            power_of_two("curriculum.min_length", self.min_length),
            power_of_two("curriculum.max_length", self.max_length),
            power_of_two("curriculum.floor", self.floor),
            power_of_two("curriculum.length", self.length),
            at_least("curriculum.cycles", self.cycles, 1),
            at_least("curriculum.cycle_steps", self.cycle_steps, 1),
            at_least("curriculum.window_start", self.window_start, 1),
            *self._check_order(),
            *self._check_shares(),
            *self._check_view(),
        ]
        if not any(problems):
            problems += [*self._check_odds(), *self._check_stages()]
        return [problem for problem in problems if problem]

    def _check_order(self) -> list[str]:
        problems: list[str] = []
        if self.min_length > self.max_length:
            problems.append(
                f"curriculum.min_length={self.min_length} is above curriculum.max_length="
                f"{self.max_length}: lower the first or raise the second"
            )
        if self.remainder == Remainder.keep and self.floor > self.min_length:
            problems.append(
                f"curriculum.floor={self.floor} is above curriculum.min_length={self.min_length}: "
                "lower it, or use curriculum.remainder=drop"
            )
        if self.length is not None and self.length > self.max_length:
            problems.append(
                f"curriculum.length={self.length} is above curriculum.max_length="
                f"{self.max_length}: lower the first or raise the second"
            )
        return problems

    def _check_shares(self) -> list[str]:
        problems: list[str] = []
        if not 0 < self.window_rate < inf:
            problems.append(
                f"curriculum.window_rate={self.window_rate} must be positive and finite"
            )
        if not 0 <= self.final_long < 1:
            problems.append(
                f"curriculum.final_long={self.final_long} is not a share: use 0 to below 1, like "
                "0.1"
            )
        if self.final_long and (self.name.one_length or self.name == CurriculumName.progressive):
            problems.append(
                f"curriculum.final_long={self.final_long} needs buckets that are drawn by shares, "
                f"and curriculum.name={self.name} has none: set it to 0, or choose another name"
            )
        if self.odds_scale != OddsScale.none and not self.name.has_odds:
            problems.append(
                f"curriculum.odds_scale={self.odds_scale} scales odds, and curriculum.name="
                f"{self.name} has none: set it to none, or choose another name"
            )
        return problems

    def _check_view(self) -> list[str]:
        problems: list[str] = []
        if self.view == ViewName.decompose:
            if self.name.one_length and self.remainder == Remainder.keep:
                problems.append(
                    f"curriculum.remainder=keep adds shorter lengths, and curriculum.name="
                    f"{self.name} has one length: use drop or pack"
                )
            return problems
        if not self.name.one_length:
            problems.append(
                f"curriculum.view={self.view} has rows of one length, and curriculum.name="
                f"{self.name} orders several: use curriculum.name=fixed or window_warmup"
            )
        if self.remainder != Remainder.drop or self.long_docs != LongDocuments.greedy:
            problems.append(
                f"curriculum.view={self.view} has no use for curriculum.remainder={self.remainder} "
                f"and curriculum.long_docs={self.long_docs}: use drop and greedy"
            )
        return problems

    def _check_odds(self) -> list[str]:
        if self.name != CurriculumName.odds:
            return []
        wanted = len(self.lengths) + (self.remainder == Remainder.pack)
        if self.odds is None or len(self.odds) != wanted or min(self.odds) <= 0:
            rests = "the rests and " if self.remainder == Remainder.pack else ""
            said = "null" if self.odds is None else self.odds
            return [
                f"curriculum.odds={said} does not fit: give {wanted} positive numbers, one "
                f"for {rests}each length of {self.lengths}"
            ]
        return []

    def _check_stages(self) -> list[str]:
        if self.name != CurriculumName.progressive:
            return []
        pairs = all(len(stage) == 2 and stage[0] > 0 for stage in self.stages)  # noqa: PLR2004
        tops = [stage[-1] for stage in self.stages if stage]
        if self.stages and pairs and tops == sorted(tops) and set(tops) <= set(self.lengths):
            return []
        return [
            f"curriculum.stages={self.stages} does not fit: give [[tokens, max length], ...] with "
            f"growing lengths of {self.lengths}"
        ]
