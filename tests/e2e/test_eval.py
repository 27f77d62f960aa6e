"""Scores of a checkpoint: those of the run's own validation, of rows alone, of any processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from runs import Run

from lmtrain.config import compose
from lmtrain.data.tasks.table import TASKS
from lmtrain.data.tasks.task import examples
from lmtrain.data.tokenize import train_bpe
from lmtrain.evaluate.evaluate import evaluate
from lmtrain.layout import SequenceLayout
from lmtrain.models.decoder import Decoder
from lmtrain.train.manifest import NAME, Manifest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def text(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("text") / "run", [*tiny, "train.steps=3", "samples.count=0"])
    assert run.train() == 0
    return run


@pytest.fixture(scope="module")
def task(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("task")
    words = [word for word in tiny if not word.startswith(("data.", "data="))]
    rows = ["data=task", "data.task.name=sort", "data.task.lengths=[16,32]", "data.task.rows=300"]
    more = ["train.steps=3", "samples.count=0", f"data.cache={folder}"]
    run = Run(folder / "run", [*words, *rows, *more])
    assert run.train() == 0
    return run


def scores(run: Run, *words: str) -> list[dict[str, Any]]:
    return evaluate(compose([f"checkpoint={run.folder}", *words], "eval"))


def same(record: dict[str, Any]) -> Any:
    """Equal to records whose numbers differ by what another order of sums does."""
    return {
        key: pytest.approx(value, rel=1e-5) if isinstance(value, float | dict) else value
        for key, value in record.items()
    }


def test_text_has_the_losses_of_the_last_validation(text: Run) -> None:
    [last] = [report for report in text.metrics if report.get("val_loss")][-1:]
    found = scores(text, "tokens=512")
    assert {str(each["length"]): each["loss"] for each in found} == pytest.approx(
        last["val_loss_by_length"], rel=1e-6
    )
    assert list(found[0]["by_position"]) == ["0", "1", "2-3", "4-7", "8-15"]
    written = json.loads((text.folder / "scores.json").read_text())
    assert written["scores"] == found


def test_lengths_beyond_training(text: Run) -> None:
    found = scores(text, "lengths=[64,128]", "row=64")
    assert [each["length"] for each in found] == [64, 128]
    assert list(found[-1]["by_position"])[-1] == "64-127"


def test_lengths_that_the_text_does_not_have(text: Run, capsys: pytest.CaptureFixture[str]) -> None:
    [only] = scores(text, "lengths=[16,65536]", "tokens=512")
    assert only["length"] == 16
    assert "text: no held-back document has the 65536 targets" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"lengths=\[65536\] leave nothing to score"):
        scores(text, "lengths=[65536]")


def alone(run: Run, folder: Path) -> Path:
    """A copy of the last checkpoint that is below no run."""
    return shutil.copytree(run.folder / "checkpoints" / "step_00000003", folder)


def test_scores_of_folders_side_by_side_stay_apart(text: Run, tmp_path: Path) -> None:
    for name in ("one", "other"):
        folder = alone(text, tmp_path / "checkpoints" / name)
        evaluate(compose([f"checkpoint={folder}", "lengths=[16]", "tokens=64"], "eval"))
        written = json.loads(folder.with_name(f"{name}.scores.json").read_text())
        assert written["checkpoint"] == str(folder)


def test_text_of_another_tokenizer_is_refused(text: Run, tmp_path: Path) -> None:
    """As of an import, whose run names no text."""
    folder = alone(text, tmp_path / "imported")
    train_bpe(["alpha beta gamma"], vocab_size=270).save(str(folder / "tokenizer.json"))
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != NAME]
    Manifest.of(folder, files).write(folder / NAME)
    told = rf"checkpoint={folder} has another tokenizer than the data: ask harness\.tasks="
    for what in ("text", "states", "context"):
        with pytest.raises(ValueError, match=told):
            evaluate(compose([f"checkpoint={folder}", f"what=[{what}]"], "eval"))


def test_a_task_is_answered_as_each_row_alone(task: Run) -> None:
    found = scores(task, "lengths=[16,64]", "rows=21", "row=100")
    with torch.device("meta"):
        model = Decoder(compose(task.overrides).resolved(67).model)
    model.load_state_dict(task.weights(3), assign=True)
    for each in found:
        length = each["length"]
        drawn = examples(TASKS["sort"], 300 + 256 + np.arange(21), seed=0, length=length)
        layout, right = SequenceLayout.of_lengths([length]), []
        for tokens, targets, asked in zip(drawn.tokens, drawn.targets, drawn.asked, strict=True):
            with torch.no_grad():
                likeliest = model(torch.from_numpy(tokens), layout).argmax(-1).numpy()
            right.append((likeliest == targets)[asked])
        assert each["answers"] == pytest.approx(np.mean(right))
        assert each["rows"] == np.mean([every.all() for every in right])


@pytest.mark.long
def test_the_command_under_torchrun(task: Run, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "lmtrain",
        "eval", f"checkpoint={task.folder}", "parallel.sequence=2", f"out={out}", "rows=21",
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = json.loads(out.read_text())["scores"], scores(task, "rows=21")
    assert [same(each) for each in ours] == theirs


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lengths=[48]"], "must be powers of two"),
        (["task=chess"], "chess is no task"),
        (["task=key_value", "lengths=[64]"], "has 129 tokens and the model 128"),
        (["task=passkey", "lengths=[8]"], "too short"),
        (["checkpoint=/nowhere"], "holds no checkpoint"),
        (["out=/nowhere/scores.json"], "in a folder that does not exist: make it first"),
        (["what=[text]"], "what has text, which needs text"),
        (["what=[task,task]"], "what has task twice"),
        (["parallel.sequence=2"], "does not divide"),
    ],
)
def test_what_cannot_be_asked_is_told_before_anything_starts(
    task: Run, words: list[str], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        scores(task, *words)
