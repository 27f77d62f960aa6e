"""Checkpoints that a run begins with or learns from: whole, and the same ones for all processes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch.distributed as dist
import world

from lmtrain.config import compose
from lmtrain.evaluate.evaluate import evaluate
from lmtrain.evaluate.generate import Writer
from lmtrain.export.trained import Trained
from lmtrain.settings.evaluate import EvalConfig
from lmtrain.train import checkpoint
from lmtrain.train.manifest import Entry
from lmtrain.train.opening import open_run
from lmtrain.train.trainer import train

if TYPE_CHECKING:
    from runs import Run

    from lmtrain.config import RunConfig


@pytest.fixture
def last(whole: Run, tmp_path: Path) -> Path:
    """A step folder of one's own."""
    last = checkpoint.path(whole.folder / "checkpoints", 8)
    return Path(shutil.copytree(last, tmp_path / "last"))


@pytest.fixture
def damaged(last: Path) -> Path:
    """With a wrong bit in a file of tensors."""
    file = next((last / "model").glob("*.safetensors"))
    contents = bytearray(file.read_bytes())
    contents[-5] ^= 16
    file.write_bytes(contents)
    return last


def test_damage_is_told_by_the_key_that_leads_to_it(damaged: Path, run: Run) -> None:
    assert checkpoint.find(damaged) == damaged, "which reads no tensors"
    for words in (
        [f"run.weights={damaged}"],
        [f"distill.teacher={damaged}", "distill.logits_steps=1"],
    ):
        key, _, _ = words[0].partition("=")
        with pytest.raises(ValueError, match=rf"contents that were written: give {key}= another"):
            run.train(*words)
        assert not checkpoint.folders(run.folder / "checkpoints")
    for read in (
        Writer.open,
        Trained.open,
        lambda path: evaluate(EvalConfig(checkpoint=str(path))),
    ):
        with pytest.raises(ValueError, match="contents that were written: give checkpoint="):
            read(damaged)


def test_first_values_are_verified_once_and_nothing_else_of_their_run(
    last: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be as large as memory, with an optimizer's state of twice that beside them."""
    verified, of = list[Path](), Entry.of
    monkeypatch.setattr(Entry, "of", lambda path: verified.append(path) or of(path))
    assert run.train("train.steps=1", "samples.count=0", f"run.weights={last}") == 0
    large = [path for path in verified if path.is_relative_to(last) and path.parent != last]
    assert large == sorted((last / "model").iterdir())


def begin(configs: list[RunConfig]) -> str:
    """What one of two processes says, each of which reads a file system of its own."""
    try:
        train(open_run(configs[dist.get_rank()]), world=2, alone=False)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("key", ["run.dir", "run.weights"])
def test_processes_that_find_other_checkpoints_do_not_begin(
    key: str, whole: Run, last: Path, run: Run
) -> None:
    """A run folder or weights that only one machine has, or has newer."""
    steps = ["train.steps=9", f"run.dir={shutil.copytree(whole.folder, run.folder / 'copy')}"]
    older = checkpoint.path(whole.folder / "checkpoints", 6)
    one, other = {
        "run.dir": ([*run.overrides, *steps], [*run.overrides, steps[0]]),
        "run.weights": ([f"run.weights={last}"], [f"run.weights={older}"]),
    }[key]
    said = world.run(2, begin, [compose([*run.overrides, *more]) for more in (one, other)])
    for rank, sentence in enumerate(said):
        assert f"process {rank} would begin with other checkpoints than the others" in sentence
    assert f"{key} leads to " in said[0]
