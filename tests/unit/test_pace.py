"""Hours become steps: measured once, exactly, and without a trace in what is trained."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from runs import Run

from lmtrain.config import compose, read
from lmtrain.train import pace
from lmtrain.train.opening import open_run
from lmtrain.train.spend import Pace
from lmtrain.train.trainer import Training

SECONDS = {"pieces of 16": 0.5, "pieces of 32": 1.25, "pieces of 64": 0.75}
"""Of a step, as the clock of these tests goes; binary fractions, so that sums are exact."""

SMALL = ["model.pattern=MA", "model.n_layers=2", "validation.every=null", "samples.count=0"]
ENDS = ["curriculum=progressive", "curriculum.stages=[[1024,32],[4096,64]]"]
"""A curriculum that looks at the end of the run."""


@pytest.fixture
def words(run: Run) -> list[str]:
    run.overrides = [word for word in run.overrides if not word.startswith("train.steps")] + SMALL
    return run.overrides


@pytest.fixture(scope="module")
def eight(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Eight steps that nobody measured."""
    run = Run(tmp_path_factory.mktemp("eight") / "run", [*tiny, *SMALL])
    assert run.train() == 0
    return run


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves while gradients are computed: far for what must not count."""
    now, laps, add = 0.0, 0, pace.add_gradients

    def add_gradients(index: int, batches: list, *args: Any) -> Any:
        nonlocal now, laps
        now += SECONDS[f"pieces of {batches[0].layout.uniform[1]}"]
        now += [900, 0, 7, 0][laps % 4]  # it warms up; then one of three is late
        laps += 1
        return add(index, batches, *args)

    monkeypatch.setattr(pace, "perf_counter", lambda: now)
    monkeypatch.setattr(pace, "add_gradients", add_gradients)


def hours(words: list[str], steps: int, more: float = 0.0) -> str:
    """The budget of so many steps, and of ``more`` seconds."""
    plan = open_run(compose([*words, f"train.steps={steps}"])).plan
    seconds = sum(SECONDS[f"pieces of {plan.length(step)}"] for step in range(steps))
    return f"budget.hours={(seconds + more) / 3600}"


def forbidden(*_: object) -> None:
    raise AssertionError("it measures again")


def test_measured_steps_leave_no_trace(words: list[str], run: Run, eight: Run) -> None:
    assert run.train(hours(words, 8, 0.25)) == 0
    assert json.loads((run.folder / "pace.json").read_text()) == {"seconds": SECONDS}
    assert read(run.folder / "config.yaml").train.steps == 8
    assert run.metrics == eight.metrics
    assert run.same_state(eight)
    assert not (eight.folder / "pace.json").exists()


@pytest.mark.parametrize("more", [[], ENDS])
@pytest.mark.parametrize("steps", [1, 7, 40])
def test_hours_are_the_most_whole_steps(words: list[str], steps: int, more: list[str]) -> None:
    words += more
    for seconds in (0.01, 0.49):
        config = compose([*words, hours(words, steps, seconds)])
        assert open_run(config, pace=Pace(SECONDS)).config.train.steps == steps


@pytest.mark.slow
def test_a_stopped_run_keeps_its_number_and_more_hours_continue_it(
    words: list[str], run: Run, eight: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, update = hours(words, 8, 0.25), Training.update

    def interrupted(self: Training, index: int, batches: list) -> tuple:
        if index + 1 == 3:
            signal.raise_signal(signal.SIGTERM)
        return update(self, index, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "update", interrupted)
        assert run.train(budget) == 128 + signal.SIGTERM
    monkeypatch.setattr(pace, "measure", forbidden)
    assert run.train(budget) == 0
    assert run.metrics == eight.metrics
    assert run.same_state(eight)
    assert open_run(compose([*words, budget])).finished
    assert run.train(hours(words, 11, 0.25)) == 0
    assert read(run.folder / "config.yaml").train.steps == 11
    assert len(run.losses) == 11


def test_a_new_run_says_what_it_measured_and_not_what_another_left(
    words: list[str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run.folder.mkdir()
    (run.folder / "pace.json").write_text('{"seconds": {"pieces of 16": 1e9}}')
    assert run.train(hours(words, 2, 0.25)) == 0
    assert len(run.losses) == 2
    told = capsys.readouterr().out
    assert "timing updates over pieces of 16, 32, 64 tokens" in told
    assert "0.5 s (pieces of 16), 1.25 s (pieces of 32), 0.75 s (pieces of 64)" in told
    assert "pays for 2 steps, until about" in told


def test_what_cannot_be_is_a_sentence(words: list[str], run: Run) -> None:
    with pytest.raises(ValueError, match="=1e-05, 0.036 seconds, does not pay for one step, which"):
        run.train("budget.hours=1e-5")
    assert run.train("train.steps=1") == 0
    with pytest.raises(ValueError, match="without budget.hours, which measures before the first"):
        run.train("budget.hours=1")
    measured = run.folder / "pace.json"
    measured.write_text(Pace(SECONDS).text())
    with pytest.raises(ValueError, match="pieces of 64, not over pieces of 128: set data and"):
        run.train("budget.hours=1", "curriculum.max_length=128")
    measured.write_text("{}")
    with pytest.raises(ValueError, match="pace.json is damaged"):
        run.train("budget.hours=1")
