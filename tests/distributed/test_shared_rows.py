"""Rows shared by several ranks equal one process: logits and every gradient, rank by rank, fp64."""

from __future__ import annotations

from functools import cache

import pytest
import shared_rows
from shared_rows import MUTATIONS, Case, Found, Probed, cases
from world import run

from lmtrain.settings.engine import Remat

WORLDS = [
    pytest.param(n, marks=pytest.mark.long if n != 4 else pytest.mark.slow) for n in (2, 4, 8)
]
APART = ("a document a rank", "equal documents")
"""Rows whose documents cross no border."""


@cache
def found(world: int) -> list[dict[tuple[Case, str], Found]]:
    return run(world, shared_rows.compare)


@cache
def probed() -> list[Probed]:
    return run(4, shared_rows.probe)


@cache
def mutated() -> list[dict[str, float]]:
    return run(4, shared_rows.mutated)


def name(case: Case) -> str:
    strategies = " ".join(f"{letter}={s}" for letter, s in case.strategies)
    return f"{case.pattern} {strategies} window {case.window} heads {case.heads} {case.remat}"


@pytest.mark.parametrize("case", cases(), ids=name)
@pytest.mark.parametrize("world", WORLDS)
def test_equals_one_process(world: int, case: Case) -> None:
    errors = {
        (row, rank): ranks[case, row].error
        for rank, ranks in enumerate(found(world))
        for row in case.met(world)
    }
    assert {where: error for where, error in errors.items() if not error < 1e-10} == {}


@pytest.mark.parametrize("world", WORLDS)
def test_nothing_is_sent_where_no_document_crosses(world: int) -> None:
    for rank in found(world):
        for (case, row), there in rank.items():
            assert there.sent == 0 or row not in APART, (case, row)
    assert any(there.sent for rank in found(world) for there in rank.values())


@pytest.mark.parametrize("world", WORLDS)
def test_recomputation_sends_nothing_again(world: int) -> None:
    pairs = [case for case in cases() if case.remat is not Remat.none]
    assert pairs
    for rank in found(world):
        for case in pairs:
            kept = shared_rows.replace(case, remat=Remat.none)
            for row in case.met(world):
                assert rank[case, row].sent == rank[kept, row].sent, (case, row)


@pytest.mark.long
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_line_is_seen(mutation: str) -> None:
    assert max(rank[mutation] for rank in mutated()) > 1e-6


@pytest.mark.slow
def test_four_ranks_keep_a_quarter_of_the_activations_each() -> None:
    for rank in probed():
        for mixture, (whole, part) in rank.saved.items():
            assert part <= 0.35 * whole, mixture


@pytest.mark.slow
def test_what_documents_leave_out_changes_nothing() -> None:
    assert max(rank.unelided for rank in probed()) < 1e-10
