"""Whether the points of a sweep show what its experiment claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lmtrain.report.facts import plain
from lmtrain.report.measures import number
from lmtrain.settings.findings import Claim, Relation

if TYPE_CHECKING:
    from lmtrain.report.points import Point


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim, and what was measured."""

    claim: Claim
    holds: bool | None
    """None where points are missing, or lack the measure."""
    left: float | None
    """Mean of the measure over the points that the claim is of."""
    right: float | None
    """What it is compared with, ``times`` included."""
    text: str
    """A sentence with both numbers, or with what is missing."""


def judge(points: Sequence[Point], claims: Sequence[Claim]) -> list[Finding]:
    """One finding for each claim, in their order; a mean needs the measure of every run it is of.

    A run that failed, goes on, or never reached a loss would otherwise drop out of the mean unseen.
    """
    return [_judge(points, claim) for claim in claims]


@dataclass(frozen=True)
class _Side:
    """The measure of some points."""

    name: str
    values: list[float]
    wanted: int
    """Points that there are."""

    @classmethod
    def of(cls, points: Sequence[Point], which: Mapping[str, Any], measure: str) -> _Side:
        found = [point for point in points if _is_one(point, which)]
        done = [point.measures for point in found if point.finished]
        values = [measures[measure] for measures in done if measure in measures]
        said = ", ".join(f"{key}={plain(value)}" for key, value in which.items()) or "all runs"
        return cls(f"{measure} of {said}", values, len(found))

    @property
    def missing(self) -> str:
        """Why there is no mean; empty where there is."""
        if not self.wanted:
            return f"{self.name}: there is no such run"
        lacking = self.wanted - len(self.values)
        return (
            f"{self.name}: missing in {lacking} of {number_of_runs(self.wanted)}" if lacking else ""
        )

    def told(self) -> str:
        """The mean and how far the runs lie apart."""
        low, high = number(min(self.values)), number(max(self.values))
        spread = f", {low} to {high}" if low != high else ""
        runs = number_of_runs(len(self.values))
        return f"{self.name} is {number(fmean(self.values))} ({runs}{spread})"


def _judge(points: Sequence[Point], claim: Claim) -> Finding:
    left = _Side.of(points, claim.of, claim.measure)
    sides, than, against = [left], claim.than, ""
    if isinstance(than, Mapping):
        right = _Side.of(points, than, claim.than_measure or claim.measure)
        sides.append(right)
        than, against = fmean(right.values or [0.0]), right.told() if right.values else ""
    if missing := [side.missing for side in sides if side.missing]:
        return Finding(claim=claim, holds=None, left=None, right=None, text="; ".join(missing))
    mean, bar = fmean(left.values), claim.times * float(than)
    told = [left.told(), *([against] if against else []), _needed(claim, bar)]
    return Finding(
        claim=claim,
        holds=_holds(claim, mean, bar),
        left=mean,
        right=bar,
        text="; ".join(told),
    )


def _holds(claim: Claim, left: float, right: float) -> bool:
    match claim.relation:
        case Relation.above:
            return left >= right + claim.by
        case Relation.below:
            return left <= right - claim.by
        case Relation.within:
            return abs(left - right) <= claim.by


def _needed(claim: Claim, bar: float) -> str:
    """What the left had to be."""
    match claim.relation:
        case Relation.above:
            return f"claimed: at least {number(bar + claim.by)}"
        case Relation.below:
            return f"claimed: at most {number(bar - claim.by)}"
        case Relation.within:
            low, high = number(bar - claim.by), number(bar + claim.by)
            return f"claimed: {low} to {high}"


def _is_one(point: Point, which: Mapping[str, Any]) -> bool:
    """Whether the run has these values, of keys that vary or of its whole configuration."""
    return all(
        _same(point.keys.get(key, point.run.config.get(key)), value) for key, value in which.items()
    )


def _same(have: object, wanted: object) -> bool:
    """Whether two values are one, however they are written: 2 is ``2.0`` and ``2``."""
    try:
        return float(str(have)) == float(str(wanted))
    except ValueError:
        return plain(have).lower() == plain(wanted).lower()


def number_of_runs(count: int) -> str:
    """In words."""
    return f"{count} run" if count == 1 else f"{count} runs"
