"""What a sweep says in words: the best choice, against each other one, and what cannot be told."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
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
    lacking: list[Group]
    """Those without the measure: not scored, or at other lengths."""

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

    def left_out(self) -> str:
        """Who is not compared; empty where all are."""
        names = ", ".join(group.name for group in self.lacking)
        return f"Not compared, for want of {self.measure}: {names}." if names else ""

    def caution(self) -> str:
        """Who is left out, and what so few runs cannot tell."""
        found = [comparison for _, comparison in self.rivals]
        said_so = [self.left_out()] if self.lacking else []
        if not found:
            said_so.append("There is nothing to compare it with.")
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
    found = by_condition(groups).items()
    return [
        _verdict(condition, rivals, measure)
        for condition, rivals in found
        if any(group.estimate(measure) for group in rivals)
    ]


def mean(group: Group, measure: str) -> str:
    """Mean ± standard error, and of how many."""
    found = group.estimate(measure)
    assert found is not None
    if found.error is None:
        return f"{shown(measure, found.mean)} (one run)"
    error = shown_error(measure, found.error)
    return f"{shown(measure, found.mean)} ± {error} ({found.count} runs)"


def _verdict(condition: str, rivals: Sequence[Group], measure: str) -> Verdict:
    means = [(found.mean, group) for group in rivals if (found := group.estimate(measure))]
    means.sort(key=itemgetter(0), reverse=higher(measure))
    best, *behind = (group for _, group in means)
    ours = best.values(measure)
    compared = [(rival, compare(ours, rival.values(measure))) for rival in behind]
    told = [(rival, comparison) for rival, comparison in compared if comparison is not None]
    lacking = [group for group in rivals if not group.estimate(measure)]
    return Verdict(condition, measure, best, told, lacking)
