"""What a sweep says in words: the best choice, against each other one, and what cannot be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmtrain.report.measures import higher, shown, shown_error
from lmtrain.report.seeds import Comparison, Group, by_condition, compare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmtrain.report.points import Point


@dataclass(frozen=True)
class Verdict:
    """The best choice under one condition."""

    condition: str
    """Empty where there is only one."""
    measure: str
    best: Group
    rivals: list[tuple[Group, Comparison]]
    """The others that have the measure, the best first, and the best minus each."""

    @property
    def point(self) -> Point:
        """The first of the best choice's runs that has the measure."""
        return next(point for point in self.best.points if self.measure in point.measures)

    def headline(self) -> str:
        """The best, its mean and over how many seeds."""
        where = f"{self.condition}: " if self.condition else ""
        way = "highest" if higher(self.measure) else "lowest"
        name = self.best.name or "the only choice"
        return f"{where}{way} {self.measure}: {name}, {mean(self.best, self.measure)}"

    def caution(self) -> str:
        """What so few runs cannot tell."""
        found = [comparison for _, comparison in self.rivals]
        if not found:
            return "There is nothing to compare it with."
        said_so: list[str] = []
        least = [c.least for c in found if c.least is not None and c.least > 0.05]  # noqa: PLR2004
        if any(c.p is None and c.count == 0 for c in found):
            said_so.append(
                "With one run of a side, what chance alone does cannot be told: add seeds."
            )
        if least:
            said_so.append(
                f"So few runs cannot give a p below {min(least):.2g}: the exact test alone cannot "
                "show a difference. The interval assumes that differences are normal."
            )
        if len(found) > 1 and any(c.p is not None for c in found):
            said_so.append(
                f"p is not corrected for {len(found)} comparisons with a best that was chosen "
                "after looking."
            )
        return " ".join(said_so)


def verdicts(groups: Sequence[Group], measure: str) -> list[Verdict]:
    """One for each condition under which any run has the measure; failed runs do not count."""
    found = by_condition(group for group in groups if group.estimate(measure))
    return [_verdict(condition, rivals, measure) for condition, rivals in found.items()]


def mean(group: Group, measure: str) -> str:
    """Mean ± standard error, and of how many."""
    found = group.estimate(measure)
    assert found is not None
    if found.error is None:
        return f"{shown(measure, found.mean)} (one run)"
    error = shown_error(measure, found.error)
    return f"{shown(measure, found.mean)} ± {error} ({found.count} runs)"


def _verdict(condition: str, rivals: Sequence[Group], measure: str) -> Verdict:
    def value(group: Group) -> float:
        found = group.estimate(measure)
        assert found is not None
        return found.mean

    best, *others = sorted(rivals, key=value, reverse=higher(measure))
    ours = best.values(measure)
    compared = [(other, compare(ours, other.values(measure))) for other in others]
    return Verdict(condition, measure, best, [(o, c) for o, c in compared if c is not None])
