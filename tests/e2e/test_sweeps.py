"""Sweeps that run: points fail alone, finished ones are skipped, stopped ones go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

import pytest
from forked import children
from runs import Run

from lmtrain import cli

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS = 240


def sweep(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of ``lmtrain train -m`` in this process."""
    monkeypatch.setattr(sys, "argv", ["lmtrain", "train", "-m", *words])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


@pytest.fixture
def short(tiny: list[str]) -> list[str]:
    """Three steps of two blocks."""
    return [*tiny, "model.n_layers=2", "train.steps=3", "samples.count=0", "validation.every=null"]


def test_a_point_fails_alone_and_the_same_command_does_what_is_left(
    short: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*short, f"run.dir={tmp_path}/sweep", "hybrid.mixer=M", "hybrid.ratio=2:1,1:1,1:0"]
    folder = tmp_path / "sweep"
    assert sweep(monkeypatch, *words) == 1
    told = capsys.readouterr().out
    refused = "hybrid.ratio=2:1 cannot hold in model.n_layers=2: make that a multiple of 3"
    assert f"hybrid.ratio=2:1: {refused}" in told
    assert "2 of 3 points finished, 1 failed" in told
    assert (folder / "hybrid.ratio=2:1" / "error.txt").read_text().startswith(refused)
    asked = json.loads((folder / "hybrid.ratio=2:1" / "asked.json").read_text())
    assert asked["hybrid.ratio"] == "2:1"
    assert "pattern: MA\n" in (folder / "hybrid.ratio=1:1" / "config.yaml").read_text()
    before = {p: p.read_bytes() for p in folder.glob("hybrid.ratio=1:*/**/*") if p.is_file()}

    (folder / "hybrid.ratio=1:0" / "error.txt").write_text("of a time before\n")
    assert sweep(monkeypatch, *words, "model.n_layers=2") == 1
    assert "is finished at step 3" in capsys.readouterr().out
    assert not (folder / "hybrid.ratio=1:0" / "error.txt").exists()
    assert {p: p.read_bytes() for p in before} == before


def test_a_sweep_needs_m(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lmtrain", "train", "+sweep=placement"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    assert "add -m" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "by", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.long)]
)
def test_stopped_or_killed_at_any_time_it_ends_in_the_same_numbers(
    by: signal.Signals, short: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = [*short, "model.n_layers=1", "checkpoint.every=2", "optim.schedule=constant"]
    folder, joblib = tmp_path / "sweep", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    varied = ["model.pattern=M,W", f"run.dir={folder}"]
    points = [Run(folder / f"model.pattern={letter}", longer) for letter in "MW"]

    command = [sys.executable, "-m", "lmtrain", "train", "-m", *longer, *varied, *joblib]
    leader = subprocess.Popen([*command, "train.steps=100000"], stdout=subprocess.DEVNULL)
    wait(lambda: all(len(list(p.folder.glob("checkpoints/step_*"))) > 1 for p in points))
    workers = children(leader.pid)
    leader.send_signal(by)
    assert leader.wait(PATIENCE_SECONDS) == (143 if by == signal.SIGTERM else -by)
    wait(lambda: not any(alive(pid) for pid in workers))
    end = max(point.metrics[-1]["step"] for point in points) + 2

    assert sweep(monkeypatch, *longer, *varied, f"train.steps={end}") == 0
    for point, letter in zip(points, "MW", strict=True):
        whole = Run(tmp_path / letter, [*longer, f"model.pattern={letter}"])
        assert whole.train(f"train.steps={end}") == 0
        assert point.metrics == whole.metrics


def wait(until: Callable[[], bool]) -> None:
    end = monotonic() + PATIENCE_SECONDS
    while not until():
        assert monotonic() < end, "it never came"
        sleep(0.1)


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has asked after is dead all the same."""
    try:
        os.kill(pid, 0)
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
