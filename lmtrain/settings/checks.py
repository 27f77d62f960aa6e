"""Checks that several sections share: each gives sentences with key, value and remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf


def positive(values: Mapping[str, int | None]) -> list[str]:
    """Counts that are below one; None is none."""
    return [
        f"{key}={value} must be at least 1"
        for key, value in values.items()
        if value is not None and value < 1
    ]


def above_zero(values: Mapping[str, float | None]) -> list[str]:
    """Numbers that are not positive and finite, as nan is not; None is none."""
    return [
        f"{key}={value:g} must be positive and finite"
        for key, value in values.items()
        if value is not None and not 0 < value < inf
    ]


def not_negative(values: Mapping[str, float]) -> list[str]:
    """Numbers that are negative or not finite."""
    return [
        f"{key}={value:g} must be finite and not negative"
        for key, value in values.items()
        if not 0 <= value < inf
    ]


def called(problems: Iterable[str], old: str, new: str) -> list[str]:
    """The same sentences, where a verb calls a key otherwise than the section they come from."""
    return [problem.replace(old, new) for problem in problems]


def sampling(temperature: float, top_p: float, *, prefix: str = "") -> list[str]:
    """What is wrong with how tokens are drawn."""
    problems = not_negative({f"{prefix}temperature": temperature})
    if not 0 < top_p <= 1:
        problems.append(f"{prefix}top_p={top_p} must lie in (0, 1]")
    return problems
