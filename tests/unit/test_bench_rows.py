"""`lmtrain bench what=rows`: whole stacks under several strategies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from world import torchrun

from lmtrain.bench.rows import Contender, bench_rows
from lmtrain.config import BenchConfig

if TYPE_CHECKING:
    from pathlib import Path


def test_a_stack_is_written_with_its_strategies() -> None:
    contender = Contender.parse("GGGA G=lasp2 A=ring")
    assert contender.strategies == {"G": "lasp2", "A": "ring"}
    assert str(contender) == "GGGA G=lasp2 A=ring"


def test_it_needs_several_processes_and_known_names() -> None:
    with pytest.raises(ValueError, match=r"stacks=G G=chain: chain is no strategy"):
        bench_rows(BenchConfig(what="rows", stacks=["G G=chain"]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="torchrun"):
        bench_rows(BenchConfig(what="rows"))  # type: ignore[arg-type]


@pytest.mark.slow
def test_every_stack_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    stacks = ["A A=ring", "G G=serial", "GWMA G=zeco"]
    once = {"threads": 1, "warm_up": 0, "repeats": 1}
    config = BenchConfig(what="rows", stacks=stacks, lengths=[256], out=str(out), **once)  # type: ignore[arg-type]
    torchrun(2, bench_rows, config)
    record = json.loads(out.read_text())
    assert record["command"].startswith("torchrun --nproc-per-node=2 -m lmtrain bench what=rows")
    assert record["config"]["lengths"] == [256]
    found = {m["stack"]: m for m in record["results"]}
    assert list(found) == stacks
    assert found["G G=serial"]["chosen"] == {"G": "serial"}
    assert all(m["sent"] > 0 and m["seconds"][0] > 0 for m in found.values())
