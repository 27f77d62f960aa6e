"""The curriculum: which bucket each step draws from.

A run is a sequence of cycles of equally many steps. Over the cycles the steps of a bucket follow
its share of the tokens; within a cycle they are ordered by the odds of the buckets, and short
lengths come first because they are drawn more often and run empty first.

The order within a cycle is a race. Drawing a bucket with probability in proportion to its odds
among those not yet empty is the same as giving the batches of each bucket arrival times with
exponential gaps, at the rate of its odds, and sorting all arrivals.
"""

from __future__ import annotations

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
    """The odds of ``count`` buckets, shortest first; None for the natural order."""
    match config.name:
        case CurriculumName.natural:
            return None
        case CurriculumName.staircase_linear | CurriculumName.staircase_p2:
            return None
        case CurriculumName.progressive:
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
) -> NDArray[np.int64]:
    """The buckets of a cycle in order, ``counts[i]`` times bucket ``i``."""
    times = [
        _arrivals(count, None if odds is None else odds[i], randomness, (*key, i))
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


class Schedule:
    """The bucket of every step, made cycle by cycle as steps are asked for.

    Args:
        weights: tokens in each bucket; its share of the steps.
        cycle_steps: steps in a cycle.
        odds: of each bucket; None for the natural order.
        randomness: of the order within a cycle.
        seed: of the order within a cycle.
    """

    def __init__(
        self,
        weights: Sequence[int],
        *,
        cycle_steps: int,
        odds: Sequence[float] | None,
        randomness: Randomness,
        seed: int,
    ) -> None:
        self.cycle_steps = cycle_steps
        self.odds = odds
        self.randomness = randomness
        self._weights, self._seed = weights, seed
        self._quotas: list[list[int]] = [[0] * len(weights)]
        self._cycles: dict[int, Cycle] = {}
        self._lock = Lock()

    def __getitem__(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and how many steps before it used the same bucket."""
        cycle, index = self._cycle(step // self.cycle_steps), step % self.cycle_steps
        return int(cycle.buckets[index]), int(cycle.ordinals[index])

    def counts(self, steps: int) -> list[int]:
        """How many of the first ``steps`` steps use each bucket."""
        number, rest = divmod(steps, self.cycle_steps)
        buckets = self._cycle(number).buckets[:rest]
        part = np.bincount(buckets, minlength=len(self._weights))
        return [q + int(p) for q, p in zip(self._quotas[number], part, strict=True)]

    def _cycle(self, number: int) -> Cycle:
        with self._lock:  # threads of the loader share the cache
            if number not in self._cycles:
                while len(self._cycles) >= CACHED_CYCLES:
                    del self._cycles[next(iter(self._cycles))]
                self._cycles[number] = self._make(number)
            return self._cycles[number]

    def _make(self, number: int) -> Cycle:
        while len(self._quotas) <= number + 1:
            steps = len(self._quotas) * self.cycle_steps
            self._quotas.append(extend_quotas(self._quotas[-1], self._weights, steps))
        before, after = self._quotas[number], self._quotas[number + 1]
        counts = [b - a for a, b in zip(before, after, strict=True)]
        key = (self._seed, "cycle", number)
        buckets = race(counts, self.odds, randomness=self.randomness, key=key)
        ordinals = np.empty_like(buckets)
        for bucket, count in enumerate(counts):
            ordinals[buckets == bucket] = before[bucket] + np.arange(count)
        return Cycle(buckets, ordinals)
