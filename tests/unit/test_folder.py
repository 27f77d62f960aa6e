"""The run folder: who may continue in it, and what is forgotten."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lmtrain.config import RunConfig, compose, read, to_yaml
from lmtrain.settings.optim import OptimConfig
from lmtrain.settings.run import RunSection
from lmtrain.train.folder import RunFolder, _differences
from lmtrain.train.manifest import Manifest
from lmtrain.train.opening import open_run

if TYPE_CHECKING:
    from collections.abc import Iterator


def lines(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    folder = RunFolder(tmp_path / "run")
    with folder.claimed():
        yield folder


def test_reports_after_the_step_are_forgotten(folder: RunFolder) -> None:
    metrics = folder.path / "metrics.jsonl"
    metrics.write_text("".join(f'{{"step": {n}}}\n' for n in (1, 2, 2, 3, 4)) + '{"step": 2, "lo')
    folder.start(RunConfig(), step=2)
    assert lines(metrics) == [1, 2, 2]
    assert read(folder.path / "config.yaml") == RunConfig()


def test_validations_are_remembered(folder: RunFolder) -> None:
    metrics = folder.path / "metrics.jsonl"
    metrics.write_text(
        '{"step": 2, "loss": 1}\n{"step": 2, "val_loss": 1}\n{"step": 3, "loss": 1}\n'
    )
    assert folder.validated(2)
    assert not folder.validated(3)


def test_done_is_said_and_taken_back(folder: RunFolder) -> None:
    assert folder.finished() is None
    folder.finish(12)
    assert folder.finished() == 12
    folder.start(RunConfig(), step=12)
    assert folder.finished() is None


def test_a_second_run_in_the_same_folder_is_refused(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match="is in use by another run"):
        RunFolder(folder.path).claimed().__enter__()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"run\.dir=.* cannot be written"):
        RunFolder(tmp_path / "file" / "run").claimed().__enter__()


@pytest.fixture
def begun(tiny: list[str], tmp_path: Path) -> RunConfig:
    """A run with a checkpoint at step 5, of which only what `resume` reads is there."""
    config = compose([*tiny, f"run.dir={tmp_path}/run"])
    opened = open_run(config)
    step = tmp_path / "run" / "checkpoints" / "step_00000005"
    step.mkdir(parents=True)
    (step / "config.yaml").write_text(to_yaml(opened.config))
    state = {"step": 5, "plan": opened.plan.hash, "identity": opened.plan.identity, "format": 2}
    (step / "state.json").write_text(json.dumps(state))
    Manifest.of(step, list(step.iterdir())).write(step / "manifest.json")
    return config


def test_a_finished_run_is_not_begun_anew(begun: RunConfig) -> None:
    folder = RunFolder(Path(begun.run.dir))
    folder.finish(8)
    shutil.rmtree(folder.checkpoints)
    with pytest.raises(ValueError, match="is finished at step 8, but its checkpoints are gone"):
        open_run(begun)


def test_the_same_run_continues(begun: RunConfig) -> None:
    assert open_run(begun).first_step == 5
    longer = replace(begun, train=replace(begun.train, steps=50, accumulate=2))
    assert open_run(longer).first_step == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optim": OptimConfig(lr=0.5)}, r"optim\.lr was .* and is 0\.5: set it back"),
        ({"run": "seed"}, r"run\.seed was 0 and is 7"),
        ({"model": {"d_model": 64}}, r"model\.d_model was 32 and is 64"),
        ({"curriculum": {"max_length": 128}}, r"curriculum\.max_length was 64 and is 128"),
        ({"data": {"val_fraction": 0.3}}, r"data\.val_fraction was 0\.1 and is 0\.3"),
        ({"train": {"tokens_per_step": 512}}, r"train\.tokens_per_step was 256 and is 512"),
        ({"train": {"steps": 4}}, r"train\.steps=4 lies before its step 5: raise it"),
    ],
)
def test_another_run_is_refused_by_its_key(
    begun: RunConfig, change: dict[str, object], words: str
) -> None:
    [(section, values)] = change.items()
    if values == "seed":
        values = RunSection(dir=begun.run.dir, seed=7)
    elif isinstance(values, dict):
        values = replace(getattr(begun, section), **values)
    else:
        values = replace(begun.optim, lr=0.5)
    with pytest.raises(ValueError, match=f"step_00000005 cannot continue: .*{words}"):
        open_run(replace(begun, **{section: values}))


def test_a_vocabulary_that_follows_from_the_data_is_told_after_it() -> None:
    runs = [compose([f"data.source={name}"]).resolved(size) for name, size in (("a", 9), ("b", 99))]
    assert _differences(*runs) == [
        "data.source was a and is b: set it back",
        "model.vocab_size was 64 and is 128: set it back",
    ]
