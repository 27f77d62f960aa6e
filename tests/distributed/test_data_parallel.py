"""Several processes train like one."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from lmtrain.train.trainer import Training

if TYPE_CHECKING:
    from runs import Run

pytestmark = pytest.mark.slow


def start(*command: str, code: int = 0) -> str:
    """Run to its end; what it said of errors."""
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr


def flat(report: dict[str, Any]) -> dict[str, float]:
    """The numbers of a report."""
    numbers = report | report.get("val_loss_by_length", {})
    return {key: value for key, value in numbers.items() if isinstance(value, int | float)}


def check_same_run(run: Run, whole: Run) -> None:
    """Every number that was reported, and the final weights, to 1e-5."""
    assert [flat(report) for report in run.metrics] == [
        pytest.approx(flat(report), rel=1e-5) for report in whole.metrics
    ]
    weights, expected = run.weights(8), whole.weights(8)
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-5)


def test_two_processes_under_torchrun_give_the_losses_of_one(whole: Run, run: Run) -> None:
    torchrun = ["torch.distributed.run", "--nproc-per-node=2", "-m"]
    start(*torchrun, "lmtrain", "train", *run.overrides)
    check_same_run(run, whole)


def test_two_processes_continue_what_one_began(
    whole: Run, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Training.update

    def interrupted(self: Training, index: int, batches: list) -> tuple:
        if index == 3:
            signal.raise_signal(signal.SIGTERM)
        return update(self, index, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "update", interrupted)
        run.train()
    start("lmtrain", "train", *run.overrides, "launch.nproc=2")
    check_same_run(run, whole)


def test_a_mistake_that_workers_find_is_told_once_and_not_repeated(run: Run) -> None:
    diverges = ["optim.lr=1e20", "optim.clip=null", "optim.warmup_steps=0", "validation.every=null"]
    several = ["launch.nproc=2", "launch.restarts=2"]
    said = start("lmtrain", "train", *run.overrides, *diverges, *several, code=2)
    assert said.startswith("lmtrain: step 2: the loss is ")
    assert said.count("\n") == 1
    assert len(run.losses) == 1
    begun = (run.folder / "metrics.jsonl").read_text().count('"started"')
    assert begun == 1
