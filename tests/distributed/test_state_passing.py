"""Carried states equal one process, outputs and every gradient, rank by rank (fp64)."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import state_passing
import torch
from state_passing import FIXTURES, RULES, TOKENS, inputs, rows
from world import run

from lmtrain.layout import SequenceLayout

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


@pytest.mark.parametrize("fixture", FIXTURES)
def test_the_transition_is_neither_small_nor_symmetric(fixture: str) -> None:
    """Else a forgotten or a transposed transition would stay unseen."""
    length = TOKENS[fixture]
    row = SequenceLayout.of_lengths([3 * length])
    given = tuple(x[length : 2 * length] for x in inputs("delta", fixture, 3 * length))
    move = RULES["delta"].summarize(given, replace(row, start=length, stop=2 * length)).transition
    assert torch.linalg.matrix_norm(move, 2).min() >= 0.3
    assert ((move - move.mT).norm(dim=(1, 2)) / move.norm(dim=(1, 2))).min() >= 0.2
