"""A run goes on with other data or batches when that is asked for, and only then."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from runs import Run


def store(run: Run) -> str:
    [source] = [o.removeprefix("data.source=") for o in run.overrides if "data.source=" in o]
    return source


def test_other_batches_need_to_be_asked_for_and_then_resume_like_any_run(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.train("train.steps=3") == 0
    wider = ["train.tokens_per_step=512", "train.steps=5"]
    with pytest.raises(
        ValueError, match=r"tokens_per_step was 256 and is 512.*resume\.replan=true"
    ):
        run.train(*wider)
    assert run.train(*wider, "resume.replan=true") == 0
    assert "re-planned from step 3 on: curriculum" not in (told := capsys.readouterr().out)
    assert "re-planned from step 3 on: train.tokens_per_step was 256 and is 512" in told
    assert [m["tokens"] for m in run.metrics if "loss" in m] == [256, 512, 768, 1280, 1792]
    with pytest.raises(ValueError, match=r"tokens_per_step was 512 and is 256"):
        run.train("train.steps=8")
    assert run.train("train.tokens_per_step=512", "train.steps=8") == 0  # the plan is kept
    state = json.loads((run.folder / "checkpoints" / "step_00000008" / "state.json").read_text())
    assert [past["step"] for past in state["past"]] == [3]
    assert state["tokens"] == 3 * 256 + 5 * 512


def test_a_source_is_added_and_reported_by_its_name(run: Run) -> None:
    assert run.train("train.steps=3") == 0
    first = store(run)
    named = [o for o in run.overrides if "data.source=" not in o]
    again = type(run)(run.folder, [*named, "data.source=''"])
    more = [f"+data.sources.old={{path: {first}, weight: 3}}", f"+data.sources.new.path={first}"]
    assert again.train(*more, "resume.replan=true") == 0
    steps = [m for m in run.metrics if "loss" in m]
    assert "sources" not in steps[2]
    assert set(steps[-1]["sources"]) == {"old", "new"}
    assert sum(steps[-1]["sources"].values()) == pytest.approx(1)
    last = [m for m in run.metrics if "val_loss" in m][-1]
    assert set(last["val_loss_by_source"]) == {"old", "new"}


def test_more_validation_data_are_reported_by_name(run: Run, tmp_path: Path) -> None:
    from lmtrain.config import PrepareConfig
    from lmtrain.data.prepare import prepare

    (tmp_path / "held.txt").write_text("zeta epsilon " * 100)
    held = str(tmp_path / "held")
    prepare(PrepareConfig(input=str(tmp_path / "held.txt"), out=held, tokenizer="bytes"))
    assert run.train(f"+data.validation.held={held}", "train.steps=2") == 0
    [last] = [m for m in run.metrics if "val_loss" in m]
    assert set(last["val_loss_by_source"]) == {"held"}
    assert last["val_loss_by_source"]["held"] != last["val_loss"]
