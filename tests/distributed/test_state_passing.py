"""Carried states equal one process, outputs and every gradient, rank by rank (fp64)."""

from __future__ import annotations

from functools import cache

import pytest
import state_passing
from state_passing import FIXTURES, RULES, rows
from world import run

KERNELS = ["lasp2", "zeco in one block", "zeco in three blocks", "ulysses", "portable"]


@cache
def errors(world: int) -> list[dict[tuple[str, ...], float]]:
    return run(world, state_passing.errors)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("world", [2, 4])
def test_equals_one_process(world: int, rule: str, kernel: str) -> None:
    found = {
        (*case, f"rank {rank}"): error
        for rank, cases in enumerate(errors(world))
        for case, error in cases.items()
        if case[0] == rule and case[3] == kernel
    }
    assert len(found) == len(FIXTURES) * len(rows(32, world)) * world
    assert {case: error for case, error in found.items() if not error < 1e-10} == {}
