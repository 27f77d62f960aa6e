"""Batches that would spoil the weights: the run ends, leaves them out, or goes back."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch
from forked import fork, instead, kill_at_call, ranks, wait
from runs import Run

from lmtrain.train.engines.local import LocalEngine
from lmtrain.train.trainer import Training

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA context cannot be forked")


@contextmanager
def at_steps(steps: set[int], change: Callable[..., Any]) -> Iterator[None]:
    """``change(original step of the engine, engine, optimizer, ...)`` at some steps of a run."""
    now: list[int] = []

    def update(original: Callable[..., Any], self: Training, index: int, batches: list) -> Any:
        now[:] = [index + 1]
        return original(self, index, batches)

    def step(original: Callable[..., Any], self: LocalEngine, *args: Any, **more: Any) -> Any:
        if now[0] in steps:
            return change(original, self, *args, **more)
        return original(self, *args, **more)

    with ExitStack() as held:
        held.enter_context(instead(Training, "update", update))
        held.enter_context(instead(LocalEngine, "step", step))
        yield


def poison(original: Callable[..., Any], self: LocalEngine, optimizer: Any, **more: Any) -> Any:
    """A gradient with one number that is none, on the last rank."""
    if self.rank == self.world - 1:
        first = optimizer.param_groups[0]["params"][0]
        getattr(first.grad, "_local_tensor", first.grad).view(-1)[0] = torch.nan
    return original(self, optimizer, **more)


def nothing(original: Callable[..., Any], self: LocalEngine, optimizer: Any, **more: Any) -> Any:
    """No update."""
    self.discard(optimizer)
    return 1.0


def faults(run: Run) -> list[dict[str, Any]]:
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [report for report in map(json.loads, lines) if "fault" in report]


POLICIES = {"skip": {5}, "rollback": {4, 5}}
"""The steps without an update when batch 5 is faulty and there is a checkpoint every 3 steps."""


@pytest.fixture(scope="module")
def expected(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Runs that leave batches out from the start."""
    runs = {policy: Run(tmp_path_factory.mktemp(policy) / "run", tiny) for policy in POLICIES}
    for policy, steps in POLICIES.items():
        with at_steps(steps, nothing):
            assert runs[policy].train() == 0
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_a_faulty_batch_leaves_no_trace(policy: str, expected: dict[str, Run], run: Run) -> None:
    back = 3 if policy == "rollback" else 5
    with at_steps({5}, poison):
        assert run.train(f"faults.policy={policy}") == 0
    assert run.same_state(expected[policy])
    [fault] = faults(run)
    assert fault == {"step": 5, "fault": "the gradient's norm is nan", "back": back, "faults": 1}
    [report] = [report for report in run.metrics if report["step"] == 5 and "loss" in report]
    assert report["grad_norm"] is None


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_it_decides_alike_when_it_was_killed_or_stopped(
    policy: str, expected: dict[str, Run], run: Run
) -> None:
    def stop_at_four(
        original: Callable[..., Any], self: Training, index: int, batches: list
    ) -> Any:
        if index == 3:
            signal.raise_signal(signal.SIGTERM)
        return original(self, index, batches)

    override = f"faults.policy={policy}"
    with at_steps({5}, poison):
        with instead(Training, "update", stop_at_four):
            assert run.train(override) == 128 + signal.SIGTERM
        with instead(Training, "save", kill_at_call(1)):  # behind the fault
            assert wait(fork(lambda: run.train(override))) == -signal.SIGKILL
        assert len(faults(run)) == 1
        assert run.train(override) == 0
    assert run.same_state(expected[policy])
    assert len(faults(run)) == 1


@pytest.mark.slow
def test_two_processes_decide_alike(expected: dict[str, Run], run: Run) -> None:
    with at_steps({5}, poison):
        assert ranks(2, lambda: run.train("faults.policy=skip")) == [0, 0]
    assert [fault["step"] for fault in faults(run)] == [5]
    assert run.losses == pytest.approx(expected["skip"].losses, rel=1e-5)


def test_without_a_policy_the_run_ends_and_its_checkpoints_stay(run: Run) -> None:
    words = "step 5: the gradient's norm is nan: say faults.policy=skip"
    with at_steps({5}, poison), pytest.raises(ValueError, match=words):
        run.train()
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["step_00000003"]


def test_too_many_faults_end_the_run(run: Run) -> None:
    words = r"step 6: .*: 3 faults in 100 steps are too many \(faults\.limit=3\)"
    with at_steps({4, 5, 6}, poison), pytest.raises(ValueError, match=words):
        run.train("faults.policy=skip", "faults.limit=3")


def test_there_is_nothing_to_go_back_to(run: Run) -> None:
    words = "holds no checkpoint to go back to yet"
    with at_steps({2}, poison), pytest.raises(ValueError, match=words):
        run.train("faults.policy=rollback")
