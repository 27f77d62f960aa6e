"""Attention over shared rows equals one process, outputs and gradients, rank by rank (fp64)."""

from __future__ import annotations

from functools import cache

import pytest
import ring_cases
import threads
import world
from ring_cases import STRATEGIES, Case, cases, more_cases

TOLERANCE = 1e-10
SPAN = 12


@cache
def errors(size: int) -> list[dict[Case, float]]:
    return world.run(size, ring_cases.errors, SPAN)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("size", [2, 4, pytest.param(8, marks=pytest.mark.long)])
def test_equals_one_process(size: int, strategy: str) -> None:
    asked = [case for case in cases(SPAN, size) if case.strategy == strategy]
    for rank, found in enumerate(errors(size)):
        assert {case: found[case] for case in asked if not found[case] < TOLERANCE} == {}, rank


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("size", "span"), [(1, 20), (3, 10), (4, 8)])
def test_equals_one_process_in_more_cases(size: int, span: int, strategy: str) -> None:
    """With threads for ranks, which are quicker to start."""
    for case in [*more_cases(span, size), *cases(span, size)]:
        if case.strategy == strategy:
            found = threads.run(size, ring_cases.worst, case, ring_cases.alone(case))
            assert max(found) < TOLERANCE, case
