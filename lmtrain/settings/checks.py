"""Checks that several sections share: each gives sentences with key, value and remedy."""

from __future__ import annotations

from collections.abc import Mapping


def positive(values: Mapping[str, int | None]) -> list[str]:
    """Counts that are below one; None is none."""
    return [
        f"{key}={value} must be at least 1"
        for key, value in values.items()
        if value is not None and value < 1
    ]


def sampling(temperature: float, top_p: float, *, prefix: str = "") -> list[str]:
    """What is wrong with how tokens are drawn."""
    problems: list[str] = []
    if temperature < 0:
        problems.append(f"{prefix}temperature={temperature} must not be negative")
    if not 0 < top_p <= 1:
        problems.append(f"{prefix}top_p={top_p} must lie in (0, 1]")
    return problems
