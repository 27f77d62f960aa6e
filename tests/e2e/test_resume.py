"""Interrupted runs go on as if nothing had happened."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from random import SystemRandom
from typing import TYPE_CHECKING

import pytest
from world import CONTEXT

from lmtrain.train.trainer import Training

if TYPE_CHECKING:
    from collections.abc import Callable

    from runs import Run


def start(run: Run, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lmtrain", "train", *run.overrides, *more]
    elsewhere = run.folder.parent / "elsewhere"
    elsewhere.mkdir()
    return subprocess.Popen(
        command, cwd=elsewhere, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait_for(run: Run, step: int, alive: Callable[[], bool]) -> None:
    """Until the run has reported ``step``."""
    metrics = run.folder / "metrics.jsonl"
    for _ in range(6000):
        if metrics.exists() and f'"step": {step},' in metrics.read_text():
            return
        assert alive(), f"it ended before step {step}"
        time.sleep(0.01)
    raise AssertionError(f"step {step} never came")


@pytest.mark.parametrize("stops", [[1], [4], [5, 7]])
def test_asked_to_stop_it_saves_and_continues_bitwise(
    stops: list[int],
    whole: Run,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    update = Training.update
    for stop in stops:

        def interrupted(self: Training, index: int, batches: list, at: int = stop) -> tuple:
            if index + 1 == at:
                signal.raise_signal(signal.SIGTERM)
            return update(self, index, batches)

        with monkeypatch.context() as patch:
            patch.setattr(Training, "update", interrupted)
            assert run.train() == 128 + signal.SIGTERM
        assert f"stopped after step {stop}: the same command continues" in capsys.readouterr().out
    assert run.train() == 0
    assert run.metrics == whole.metrics
    assert run.same_state(whole)


@pytest.mark.slow
def test_killed_at_a_random_step_it_continues_bitwise(whole: Run, run: Run) -> None:
    random = SystemRandom()
    step = random.randrange(1, 6)  # of 8: far enough from the end for a busy machine
    process = CONTEXT.Process(target=run.train)
    process.start()
    wait_for(run, step, process.is_alive)
    time.sleep(random.random() * 0.05)
    process.kill()
    process.join()
    assert not (run.folder / "done").exists(), "it was too fast to be killed"
    assert run.train() == 0
    assert run.metrics == whole.metrics, f"killed after step {step}"
    assert run.same_state(whole)


@pytest.mark.slow
def test_a_signal_from_outside_saves_and_leaves_with_its_code(run: Run) -> None:
    process = start(run, "train.steps=100000", "checkpoint.every=null", "validation.every=null")
    wait_for(run, 2, lambda: process.poll() is None)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, printed
    assert "the same command continues" in printed
    assert list((run.folder.parent / "elsewhere").iterdir()) == []
    [saved] = (run.folder / "checkpoints").iterdir()
    assert f"stopped after step {int(saved.name.removeprefix('step_'))}:" in printed
