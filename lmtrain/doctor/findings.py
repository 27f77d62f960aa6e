"""What an examination finds: facts, and problems as sentences with a remedy."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Problem:
    """Something that stands in the way of a training."""

    sentence: str
    """What is wrong, and what to do."""
    stops: bool = False
    """Whether a training cannot run, or only runs worse."""


@dataclass
class Findings:
    """Of one part of the machine."""

    title: str
    facts: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    problems: list[Problem] = field(default_factory=list[Problem])

    def fact(self, name: str, value: object) -> None:
        """Note a fact."""
        self.facts.append((name, str(value)))

    def problem(self, sentence: str, *, stops: bool = False) -> None:
        """Note a problem."""
        self.problems.append(Problem(sentence, stops))


def amount(size: float) -> str:
    """``1.2 GiB`` and the like."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:  # noqa: PLR2004
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"
