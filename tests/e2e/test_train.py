"""A run from its configuration to a text."""

from __future__ import annotations

import sys
from math import log
from typing import TYPE_CHECKING

import pytest

from lmtrain import cli
from lmtrain.config import compose, read
from lmtrain.evaluate.generate import generate
from lmtrain.train.schedule import learning_rate

if TYPE_CHECKING:
    from pathlib import Path

    from runs import Run


def test_it_leaves_a_run_folder(whole: Run) -> None:
    assert {path.name for path in whole.folder.iterdir()} == {
        "config.yaml", "metrics.jsonl", "checkpoints", "samples", "done",
    }  # fmt: skip
    kept = {path.name for path in (whole.folder / "checkpoints").iterdir()}
    assert kept == {"step_00000006", "step_00000008"}
    assert read(whole.folder / "config.yaml").model.vocab_size == 320
    [sample] = whole.files("samples/*").values()
    assert sample


def test_it_reports_every_step_and_learns(whole: Run) -> None:
    steps = [report["step"] for report in whole.metrics if "loss" in report]
    assert steps == list(range(1, 9))
    optim = read(whole.folder / "config.yaml").optim
    assert [report["lr"] for report in whole.metrics if "loss" in report] == [
        learning_rate(step, steps=8, optim=optim) for step in range(8)
    ]
    assert whole.losses[0] == pytest.approx(log(320), abs=0.1)
    assert whole.losses[-1] < whole.losses[0] - 0.5
    first, last = (report for report in whole.metrics if "val_loss" in report)
    assert (first["step"], last["step"]) == (4, 8)
    assert last["val_loss"] < first["val_loss"]
    assert last["val_bits_per_byte"] == pytest.approx(last["val_loss"] / log(2), rel=0.1)
    assert last["val_loss_by_length"].keys() == {"16", "32", "64"}


def test_two_runs_are_bitwise_equal(whole: Run, run: Run) -> None:
    run.train()
    assert run.metrics == whole.metrics
    assert run.same_state(whole)
    assert run.files("samples/*") == whole.files("samples/*")


def test_another_seed_is_another_run(whole: Run, run: Run) -> None:
    run.train("run.seed=1")
    assert run.losses != whole.losses


@pytest.mark.parametrize(
    ("override", "tolerance"),
    [
        ("train.accumulate=2", 1e-5),
        ("engine.remat=full", 0.0),
        ("engine.remat=selective", 0.0),
        ("engine.precision=bf16", 1e-2),
        ("data.prefetch=0", 0.0),
    ],
)
def test_how_it_is_computed_does_not_change_what(
    override: str, tolerance: float, whole: Run, run: Run
) -> None:
    run.train(override, "train.steps=8")
    assert run.losses == pytest.approx(whole.losses, rel=tolerance, abs=0)
    assert (run.losses == whole.losses) is (tolerance == 0)


def test_it_writes(whole: Run, capsys: pytest.CaptureFixture[str]) -> None:
    latest = [f"checkpoint={whole.folder}", "tokens=9", "prompt=alpha", "greedy=true"]
    step = [f"checkpoint={whole.folder}/checkpoints/step_00000008", *latest[1:]]
    texts: list[str] = []
    for overrides in (latest, step):
        generate(compose(overrides, "generate"))
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert texts[0].startswith("alpha")
    assert len(texts[0]) > len("alpha\n")


def test_a_finished_run_says_so_and_grows(
    run: Run, whole: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run.train("optim.schedule=constant", "train.steps=4")
    before = run.files("**/*")
    capsys.readouterr()
    assert run.train("optim.schedule=constant", "train.steps=4") == 0
    assert "is finished at step 4: raise train.steps" in capsys.readouterr().out
    assert run.files("**/*") == before
    run.train("optim.schedule=constant", "train.steps=8")
    assert [report["step"] for report in run.metrics if "loss" in report] == list(range(1, 9))
    assert run.losses[:3] == whole.losses[:3]  # the warm-up is the same


def test_a_sweep_gives_every_job_its_folder(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    overrides = [*run.overrides, "train.steps=1", "samples.count=0", "optim.lr=0.1,0.2"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lmtrain", "train", "-m", *overrides])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 0
    rates = {
        read(path).optim.lr for path in tmp_path.rglob("config.yaml") if "step" not in str(path)
    }
    assert rates == {0.1, 0.2}
    assert len(list(tmp_path.rglob("done"))) == 2
