"""Points that share everything but a seed: their mean, and whether two of them differ."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product
from math import sqrt
from statistics import NormalDist, fmean, stdev
from typing import TYPE_CHECKING

from lmtrain.report.keys import is_condition, is_seed, named_by, said
from lmtrain.report.points import Point

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LEVEL = 0.95
"""Of intervals."""
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t at 0.975 for 1 to 10 degrees of freedom: NIST/SEMATECH e-Handbook, 1.3.6.7.2."""
MOST = 12
"""Pairs, or runs of both sides, of which every exchange is tried: 4,096 at most."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds."""

    mean: float
    error: float | None
    """Standard error of the mean; None of one seed."""
    count: int


@dataclass(frozen=True)
class Group:
    """Points that differ by seeds alone."""

    choice: dict[str, str]
    """What one decides: the model, the optimizer."""
    condition: dict[str, str]
    """What is learned: keys of ``data``. Points of two conditions are no rivals."""
    points: list[Point]

    @property
    def name(self) -> str:
        """For a legend: values, with their keys where there are several, or the first folder."""
        return named_by(self.choice, self.points[0].run.folder.name if self.choice else "")

    def values(self, measure: str) -> dict[str, float]:
        """The measure by seed, of points that have it."""
        return {
            said({key: value for key, value in point.keys.items() if is_seed(key)})
            or point.run.folder.name: point.measures[measure]
            for point in self.points
            if measure in point.measures
        }

    def estimate(self, measure: str) -> Estimate | None:
        """The mean over seeds; None where no point has the measure."""
        return estimate(self.values(measure).values())


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One group against another."""

    difference: float
    """Of the means; over the seeds that both have, where they are paired."""
    interval: tuple[float, float] | None
    """Of 95 %, by Student's t over paired differences."""
    p: float | None
    """How often chance alone would give so large a difference: exact, over every exchange of signs
    (paired) or of runs (not paired); two-sided."""
    least: float | None
    """The smallest ``p`` that so few runs can give."""
    count: int
    """Pairs of one seed; 0 where seeds are not shared."""


def groups(points: Iterable[Point]) -> list[Group]:
    """Points gathered over their seeds, in the order of the first of each."""
    found: dict[tuple[tuple[str, str], ...], Group] = {}
    for point in points:
        kept = {key: value for key, value in point.keys.items() if not is_seed(key)}
        condition = {key: value for key, value in kept.items() if is_condition(key)}
        choice = {key: value for key, value in kept.items() if key not in condition}
        found.setdefault(tuple(kept.items()), Group(choice, condition, [])).points.append(point)
    return list(found.values())


def by_condition(groups: Iterable[Group]) -> dict[str, list[Group]]:
    """Groups that are rivals, by what they learned in words: empty where that does not vary."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(said(group.condition), []).append(group)
    return found


def estimate(values: Iterable[float]) -> Estimate | None:
    """Mean and standard error; None of no values."""
    values = list(values)
    if not values:
        return None
    error = stdev(values) / sqrt(len(values)) if len(values) > 1 else None
    return Estimate(fmean(values), error, len(values))


def compare(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Comparison | None:
    """Our values minus theirs, by seed; None where one side has none.

    Two seeds or more that both have make pairs, which take out what a seed does to both.
    """
    if not ours or not theirs:
        return None
    shared = [seed for seed in ours if seed in theirs]
    if len(shared) > 1:
        differences = [ours[seed] - theirs[seed] for seed in shared]
        return Comparison(
            difference=fmean(differences),
            interval=_interval(differences),
            p=_signs(differences),
            least=2 / 2 ** len(shared) if len(shared) <= MOST else None,
            count=len(shared),
        )
    left, right = list(ours.values()), list(theirs.values())
    p, least = _exchanges(left, right)
    return Comparison(
        difference=fmean(left) - fmean(right), interval=None, p=p, least=least, count=0
    )


def t_975(freedom: int) -> float:
    """Student's t at 0.975: exact to three digits behind the point."""
    if freedom <= len(T_975):
        return T_975[freedom - 1]
    z, n = NormalDist().inv_cdf((1 + LEVEL) / 2), freedom
    # Abramowitz and Stegun, 26.7.5
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3


def _interval(differences: Sequence[float]) -> tuple[float, float]:
    count = len(differences)
    half = t_975(count - 1) * stdev(differences) / sqrt(count)
    mean = fmean(differences)
    return mean - half, mean + half


def _signs(differences: Sequence[float]) -> float | None:
    """The share of all exchanges of signs whose sum is as large."""
    if len(differences) > MOST:
        return None
    reached = abs(sum(differences)) * (1 - 1e-9)
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(total >= reached for total in sums) / len(sums)


def _exchanges(left: Sequence[float], right: Sequence[float]) -> tuple[float | None, float | None]:
    """The share of all ways to deal the runs to both sides whose means differ as much."""
    both, size = [*left, *right], len(left)
    if not 3 <= len(both) <= MOST:  # noqa: PLR2004  two runs have one difference
        return None, None
    total, found = sum(both), []
    for chosen in combinations(range(len(both)), size):
        part = sum(both[place] for place in chosen)
        found.append(abs(part / size - (total - part) / (len(both) - size)))
    reached = abs(fmean(left) - fmean(right)) * (1 - 1e-9)
    mirrored = 2 if len(left) == len(right) else 1
    return sum(d >= reached for d in found) / len(found), mirrored / len(found)
