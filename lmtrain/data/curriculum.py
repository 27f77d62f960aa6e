"""The curriculum: which bucket each step draws from.

A run is a sequence of cycles of equally many steps. Over the cycles the steps of a bucket follow
its share of the tokens; within a cycle they are ordered by the odds of the buckets, and short
lengths come first because they are drawn more often and run empty first. Other cycles may come
before those, see ``lmtrain.data.opening``.

The order within a cycle is a race. Drawing a bucket with probability in proportion to its odds
among those not yet empty is the same as giving the batches of each bucket arrival times with
exponential gaps, at the rate of its odds, and sorting all arrivals.

A staircase has no odds: a cycle has as many parts as buckets, each part takes a fixed share of what
every bucket has in the cycle, most of it around the part with the number of the bucket, and the
steps of a part are shuffled.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lmtrain.data.curriculum_config import CurriculumName, Randomness
from lmtrain.data.permutation import uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lmtrain.data.curriculum_config import CurriculumConfig

CACHED_CYCLES = 4


class Cycle(NamedTuple):
    """The steps of a cycle: for each its bucket, and how many steps used that bucket before."""

    buckets: NDArray[np.int64]
    ordinals: NDArray[np.int64]


def odds(config: CurriculumConfig, count: int) -> list[float] | None:
    """The odds of ``count`` buckets, shortest first; None for an order without odds."""
    match config.name:
        case CurriculumName.natural | CurriculumName.progressive:
            return None
        case CurriculumName.staircase_linear | CurriculumName.staircase_p2:
            return None
        case CurriculumName.odds:
            return config.odds
        case CurriculumName.uniform | CurriculumName.fixed | CurriculumName.window_warmup:
            return [1.0] * count
        case CurriculumName.grow_linear | CurriculumName.shrink_linear:
            grow = [float(count - i) for i in range(count)]
        case CurriculumName.grow_p2 | CurriculumName.shrink_p2:
            grow = [2.0 ** (count - 1 - i) for i in range(count)]
        case CurriculumName.grow_p100 | CurriculumName.shrink_p100:
            grow = [100.0 ** (count - 1 - i) for i in range(count)]
    return grow[::-1] if config.name.startswith("shrink") else grow


def stairs(config: CurriculumConfig, count: int) -> list[list[int]] | None:
    """``[buckets][parts]`` weights of the parts of a cycle; None for other curricula.

    Bucket ``i`` climbs to the top in part ``i`` and goes down again after it.
    """
    match config.name:
        case CurriculumName.staircase_linear:
            return [[_height(i, part, count) for part in range(count)] for i in range(count)]
        case CurriculumName.staircase_p2:
            return [[2 ** _height(i, part, count) for part in range(count)] for i in range(count)]
        case _:
            return None


def _height(bucket: int, part: int, count: int) -> int:
    return count - bucket + part if part <= bucket else count - part


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """``total`` in whole parts by weight: nearest below, and the largest remainders one more."""
    parts, rests = zip(*(divmod(total * w, sum(weights)) for w in weights), strict=True)
    first = sorted(range(len(rests)), key=lambda i: -rests[i])[: total - sum(parts)]
    return [part + (i in first) for i, part in enumerate(parts)]


def extend_quotas(quotas: Sequence[int], weights: Sequence[int], steps: int) -> list[int]:
    """Steps of each bucket out of the first ``steps``, given those of a shorter run.

    Nothing decreases, they sum to ``steps``, and each stays within one step of the bucket's share
    of the weights: whoever would be the first to fall behind gets the next step.
    """
    total = sum(weights)
    grown = [max(q, steps * w // total) for q, w in zip(quotas, weights, strict=True)]
    for _ in range(steps - sum(grown)):
        behind = [i for i, w in enumerate(weights) if grown[i] * total < steps * w]
        due = {i: -(-(grown[i] + 1) * total // weights[i]) for i in behind}
        grown[min(due, key=lambda i: due[i])] += 1
    return grown


def race(
    counts: Sequence[int],
    odds: Sequence[float] | None,
    *,
    randomness: Randomness,
    key: tuple[int | str, ...],
    stairs: Sequence[Sequence[int]] | None = None,
) -> NDArray[np.int64]:
    """The buckets of a cycle in order, ``counts[i]`` times bucket ``i``."""
    times = [
        _climbs(apportion(count, stairs[i]), randomness, (*key, i))
        if stairs
        else _arrivals(count, None if odds is None else odds[i], randomness, (*key, i))
        for i, count in enumerate(counts)
    ]
    buckets = np.repeat(np.arange(len(counts)), counts)
    return buckets[np.argsort(np.concatenate(times), kind="stable")]


def _arrivals(
    count: int, odds: float | None, randomness: Randomness, key: tuple[int | str, ...]
) -> NDArray[np.float64]:
    """When the batches of a bucket arrive; in the natural order they fill the cycle evenly."""
    if randomness == Randomness.deterministic:
        return np.arange(0.5, count) / (odds or count)
    if odds is None:
        return uniform(count, *key)
    gaps: NDArray[np.float64] = -np.log(uniform(count, *key))
    return gaps.cumsum() / odds


def _climbs(
    counts: Sequence[int], randomness: Randomness, key: tuple[int | str, ...]
) -> NDArray[np.float64]:
    """When the batches of a bucket arrive, so many of them in each part of the cycle."""
    every = [_arrivals(n, None, randomness, (*key, part)) for part, n in enumerate(counts)]
    return np.concatenate([times + part for part, times in enumerate(every)])


class Schedule:
    """The bucket of every step, made cycle by cycle as steps are asked for.

    Args:
        weights: tokens in each bucket; its share of the steps.
        cycle_steps: steps in a cycle.
        odds: of each bucket; None for the natural order.
        randomness: of the order within a cycle.
        seed: of the order within a cycle.
        stairs: ``[buckets][parts]`` weights of the parts of a cycle, instead of odds.
        opening: steps of each bucket in the cycles before those, ``[cycles][buckets]``.
    """

    def __init__(
        self,
        weights: Sequence[int],
        *,
        cycle_steps: int,
        odds: Sequence[float] | None,
        randomness: Randomness,
        seed: int,
        stairs: Sequence[Sequence[int]] | None = None,
        opening: Sequence[Sequence[int]] = (),
    ) -> None:
        self.cycle_steps = cycle_steps
        self.odds = odds
        self.randomness = randomness
        self._weights, self._seed, self._stairs = weights, seed, stairs
        nothing = [0] * len(weights)
        self._quotas = [nothing]
        for counts in opening:
            self._quotas.append([q + n for q, n in zip(self._quotas[-1], counts, strict=True)])
        self._begins = [*accumulate((sum(counts) for counts in opening), initial=0)]
        self._grown = nothing
        """Of the cycles after the opening, as far as they are known."""
        self._cycles: dict[int, Cycle] = {}
        self._lock = Lock()

    def __getitem__(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and how many steps before it used the same bucket."""
        number, index = self._find(step)
        cycle = self._cycle(number)
        return int(cycle.buckets[index]), int(cycle.ordinals[index])

    def counts(self, steps: int) -> list[int]:
        """How many of the first ``steps`` steps use each bucket."""
        number, rest = self._find(steps)
        buckets = self._cycle(number).buckets[:rest]
        part = np.bincount(buckets, minlength=len(self._weights))
        return [q + int(p) for q, p in zip(self._quotas[number], part, strict=True)]

    @property
    def has_opening(self) -> bool:
        """Whether other cycles come before the endless ones."""
        return len(self._begins) > 1

    def cycle_end(self, step: int) -> int:
        """Where the cycle of a step ends; the step itself where one begins."""
        number, rest = self._find(step)
        if not rest:
            return step
        opening = number < len(self._begins) - 1
        return self._begins[number + 1] if opening else step - rest + self.cycle_steps

    def _find(self, step: int) -> tuple[int, int]:
        """The number of the cycle, and the place in it."""
        opening = len(self._begins) - 1
        if step < self._begins[-1]:
            number = bisect_right(self._begins, step) - 1
            return number, step - self._begins[number]
        number, place = divmod(step - self._begins[-1], self.cycle_steps)
        return opening + number, place

    def _cycle(self, number: int) -> Cycle:
        with self._lock:  # threads of the loader share the cache
            if number not in self._cycles:
                while len(self._cycles) >= CACHED_CYCLES:
                    del self._cycles[next(iter(self._cycles))]
                self._cycles[number] = self._make(number)
            return self._cycles[number]

    def _make(self, number: int) -> Cycle:
        base = self._quotas[len(self._begins) - 1]
        while len(self._quotas) <= number + 1:
            steps = (len(self._quotas) - len(self._begins) + 1) * self.cycle_steps
            self._grown = extend_quotas(self._grown, self._weights, steps)
            self._quotas.append([b + n for b, n in zip(base, self._grown, strict=True)])
        before, after = self._quotas[number], self._quotas[number + 1]
        counts = [b - a for a, b in zip(before, after, strict=True)]
        key = (self._seed, "cycle", number)
        buckets = race(counts, self.odds, randomness=self.randomness, key=key, stairs=self._stairs)
        ordinals = np.empty_like(buckets)
        for bucket, count in enumerate(counts):
            ordinals[buckets == bucket] = before[bucket] + np.arange(count)
        return Cycle(buckets, ordinals)
