"""Compiled blocks over shared rows and sharded parameters equal one process that compiles none."""

from __future__ import annotations

import compiled_rows
import pytest
from world import run

from lmtrain.settings.engine import Remat


@pytest.mark.long
@pytest.mark.parametrize("remat", [Remat.none, Remat.full])
def test_equals_one_process_with_one_set_of_graphs(remat: Remat) -> None:
    for rank in run(2, compiled_rows.compare, remat):
        assert {row: found.error for row, found in rank.items() if not found.error < 1e-10} == {}
        assert len({found.graphs for found in rank.values()}) == 1
        assert any(found.sent for found in rank.values())
        assert not all(found.sent for found in rank.values())


@pytest.mark.long
def test_copies_equal_one_process() -> None:
    for error, first, last in run(2, compiled_rows.replicas):
        assert error < 1e-10
        assert first == last
