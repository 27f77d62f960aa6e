"""Claims about a sweep: what its points should show, as data, so that a report can judge them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from typing import Any


class Relation(StrEnum):
    """How the two sides of a claim stand."""

    above = "above"
    """The left is at least the right + ``by``."""
    below = "below"
    """The left is at most the right - ``by``."""
    within = "within"
    """The two differ by at most ``by``."""


@dataclass(kw_only=True)
class Claim:
    """A published finding as it should show in a sweep: the mean of some points against others.

    Recall rises with attention::

        {says: attention recalls more, measure: answers@256,
         of: {model.pattern: A}, than: {model.pattern: G}, relation: above, by: 0.1}
    """

    says: str = ""
    """The finding, in a few words, for a table."""
    measure: str = ""
    """A number of every point, such as loss, answers@256 or flops_to@4.6; ``lmtrain.report.points``
    names them all."""
    of: dict[str, Any] = field(default_factory=dict[str, Any])
    """The points on the left: values of their keys, {model.pattern: A}; empty is all points."""
    than: Any = 0.0
    """On the right: the values of other points' keys, or a number."""
    than_measure: str | None = None
    """What is measured on the right, if not the same; {} as ``than`` is all points."""
    times: float = 1.0
    """Multiplies the right side: 0.8 with relation=below claims a fifth less."""
    relation: Relation = Relation.above
    """above, below or within."""
    by: float = 0.0
    """How far apart at least, or with within at most. Below zero it allows for the opposite: above
    by -0.02 is no more than 0.02 below."""

    def check(self, place: str) -> list[str]:
        """What is wrong with it, each a sentence with key, value and remedy.

        Args:
            place: its dotted key.
        """
        than: object = self.than
        problems = [
            f"{place}.{name} is empty: say {wanted}"
            for name, value, wanted in (
                ("says", self.says, "what is claimed"),
                ("measure", self.measure, "what is compared, such as answers@256"),
            )
            if not value
        ]
        numbers = {"times": self.times, "by": self.by, "than": than}
        problems += [
            f"{place}.{name}={value} is not finite: use a number"
            for name, value in numbers.items()
            if isinstance(value, float) and not isfinite(value)
        ]
        if isinstance(than, Mapping):
            if than == self.of and self.than_measure in (None, self.measure) and self.times == 1:
                problems.append(
                    f"{place}.than={than} is what it is compared with: name other points"
                )
        elif isinstance(than, bool) or not isinstance(than, int | float):
            problems.append(
                f"{place}.than={than} is neither points nor a number: say {{model.pattern: G}}, or "
                "0.99"
            )
        elif self.than_measure is not None:
            problems.append(
                f"{place}.than_measure={self.than_measure} has no points, as than={than} is a "
                "number: leave it out, or name points"
            )
        if self.relation is Relation.within and self.by < 0:
            problems.append(f"{place}.by={self.by} can be no distance: use 0 or more")
        return problems


def check_claims(claims: list[Claim]) -> list[str]:
    """Every problem of the claims of an experiment."""
    return [
        problem
        for place, claim in enumerate(claims)
        for problem in claim.check(f"findings[{place}]")
    ]
