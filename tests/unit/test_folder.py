"""The run folder: who may continue in it, and what is forgotten."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lmtrain.config import RunConfig, compose, read, to_yaml
from lmtrain.settings.budget import BudgetSection
from lmtrain.settings.checkpoint import ResumeSection
from lmtrain.settings.optim import OptimConfig
from lmtrain.settings.run import RunSection
from lmtrain.train.checkpoint import State
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


def test_damaged_lines_are_no_obstacle(folder: RunFolder) -> None:
    metrics = folder.path / "metrics.jsonl"
    damaged = b'\xff\xfe\n12\n[1]\n{"step": "2"}\n{"step": null}\nnull\n' + b"[" * 9999 + b"\n"
    metrics.write_bytes(b'{"step": 1}\n' + damaged + b'{"step": 2, "val_loss": 1}\n')
    assert folder.validated(2)
    folder.start(RunConfig(), step=2)
    assert lines(metrics) == [1, 2]


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


def begin(config: RunConfig) -> RunConfig:
    """Leave the checkpoint of a run at step 5, of which only what `resume` reads is there."""
    opened = open_run(config)
    step = opened.folder.checkpoints / "step_00000005"
    step.mkdir(parents=True)
    (step / "config.yaml").write_text(to_yaml(opened.config))
    (step / "state.json").write_text(json.dumps(asdict(State.of(5, opened.plan, {}))))
    Manifest.of(step, list(step.iterdir())).write(step / "manifest.json")
    return config


@pytest.fixture
def begun(tiny: list[str], tmp_path: Path) -> RunConfig:
    """A run with a checkpoint at step 5."""
    return begin(compose([*tiny, f"run.dir={tmp_path}/run"]))


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


def test_a_budget_of_tokens_counts_on_from_what_was_seen(begun: RunConfig) -> None:
    def steps(tokens: float) -> int:
        wider = replace(begun.train, tokens_per_step=512)
        config = replace(begun, train=wider, budget=BudgetSection(tokens=tokens))
        return open_run(replace(config, resume=ResumeSection(replan=True))).config.train.steps

    assert [steps(5 * 256 + more) for more in (0, 1023, 1024)] == [5, 6, 7]
    with pytest.raises(ValueError, match=r"budget\.tokens=1000 \(4 steps\) lies before its step 5"):
        steps(1000)


@pytest.mark.parametrize("old", [[], [[1, 3]]])
def test_only_steps_that_lie_ahead_are_left_out(
    tiny: list[str], tmp_path: Path, old: list[list[int]]
) -> None:
    begun = begin(compose([*tiny, f"run.dir={tmp_path}/run", f"data.skip_steps={old}"]))
    ahead = 7 if old else 5

    def first(skips: list[list[int]]) -> list[int]:
        config = replace(begun, data=replace(begun.data, skip_steps=skips))
        return open_run(config).plan[5].starts.tolist()

    assert first([*old, [ahead, ahead + 2]]) != first(old)
    for skips in ([*old, [ahead - 1, ahead]], [[0, 1], *old], [[1, 4]]):
        with pytest.raises(ValueError, match=rf"let what you add begin at {ahead} or later"):
            first(skips)


def test_weights_that_only_the_rest_of_a_run_allows_are_planned_anew(
    tiny: list[str], tmp_path: Path
) -> None:
    [path] = [word.removeprefix("data.source=") for word in tiny if "data.source=" in word]
    words = [*(word for word in tiny if "data.source=" not in word), f"run.dir={tmp_path}/run"]
    words += [f"+data.sources.{name}.path={path}" for name in "ab"]
    words += ["+data.sources.a.weight=1e-2"]
    begun = begin(compose(words))
    held = int(open_run(begun).plan.mixture.tokens[0].sum())
    more = [*words, "++data.sources.a.weight=1e2", f"+data.sources.a.max_repetition={1500 / held}"]
    with pytest.raises(ValueError, match=r"more than data\.sources\.a\.max_repetition"):
        open_run(compose(more))
    plan = open_run(compose([*more, "resume.replan=true"])).plan
    assert plan.first_step == 5
    assert plan.given(8)["a"] > 0.9


def test_a_vocabulary_that_follows_from_the_data_is_told_after_it() -> None:
    runs = [compose([f"data.source={name}"]).resolved(size) for name, size in (("a", 9), ("b", 99))]
    assert _differences(*runs) == [
        "data.source was a and is b: set it back",
        "model.vocab_size was 64 and is 128: set it back",
    ]
