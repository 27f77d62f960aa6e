"""Processes that share rows train like one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from forked import workers
from runs import Run
from test_data_parallel import check_same_run, start

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def sent(run: Run) -> list[tuple[int, int]]:
    """Length and bytes of every step."""
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    steps = [r for r in map(json.loads, lines) if "sp_bytes" in r]
    return [(step["length"], step["sp_bytes"]) for step in steps]


@pytest.mark.long
def test_four_processes_on_two_rows_give_the_losses_of_one(whole: Run, run: Run) -> None:
    start(
        *("lmtrain", "train", *run.overrides, "launch.nproc=4", "parallel.sequence=2"),
        *("train.accumulate=2", "engine.remat=full"),
    )
    check_same_run(run, whole)
    assert all((size > 0) == (length > 32) for length, size in sent(run))
    assert len({size > 0 for _, size in sent(run)}) == 2


@pytest.mark.long
def test_a_checkpoint_of_two_goes_on_with_four(run: Run, tmp_path: Path) -> None:
    overrides = ["optim.schedule=constant", "train.accumulate=2", "parallel.strategy.A=ring"]
    alone = Run(tmp_path / "alone", [*run.overrides, *overrides])
    assert alone.train() == 0
    shared = [*run.overrides, *overrides, "parallel.strategy.M=zeco"]
    start("lmtrain", "train", *shared, "launch.nproc=2", "parallel.sequence=2", "train.steps=4")
    start("lmtrain", "train", *shared, "launch.nproc=4", "parallel.sequence=4")
    reports = {r["step"]: r["loss"] for r in run.metrics if "loss" in r}
    expected = {r["step"]: r["loss"] for r in alone.metrics if "loss" in r}
    assert reports == pytest.approx(expected, rel=1e-5)
    assert any(size for _, size in sent(run))


def test_a_dead_rank_ends_the_others(run: Run) -> None:
    command = [sys.executable, "-m", "lmtrain", "train", *run.overrides, "train.steps=100000"]
    shared = ["launch.nproc=2", "parallel.sequence=2", "train.accumulate=4"]
    with subprocess.Popen([*command, *shared], stderr=subprocess.PIPE, text=True) as parent:
        metrics = run.folder / "metrics.jsonl"
        try:
            while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
                assert parent.poll() is None
                time.sleep(0.2)
            os.kill(workers(parent.pid)[0], signal.SIGKILL)
            _, said = parent.communicate(timeout=120)
        finally:
            parent.kill()
    assert parent.returncode != 0
    assert "lmtrain: a worker failed" in said
