"""Scores at the end of a run: of any engine and any processes, made up for after a kill."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import world
from runs import Run

from lmtrain.config import RunConfig, compose
from lmtrain.data.sources import open_data
from lmtrain.data.store import Side
from lmtrain.evaluate.evaluate import evaluate
from lmtrain.layout import SequenceLayout
from lmtrain.models.decoder import Decoder
from lmtrain.train import scoring
from lmtrain.train.opening import open_run
from lmtrain.train.trainer import train

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

ASKED = [
    *("scores.what=[text,states,context]", "scores.lengths=[8,64]"),
    *("scores.tokens=450", "scores.row=32"),
]


@pytest.fixture(scope="module")
def text(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("scored") / "run", [*tiny, "train.steps=2", *QUIET])
    assert run.train(*ASKED) == 0
    return run


QUIET = ["samples.count=0", "validation.every=null"]


def written(run: Run) -> list[dict[str, Any]]:
    return json.loads((run.folder / "scores.json").read_text())["scores"]


def same(record: dict[str, Any], rel: float = 1e-5) -> Any:
    return {
        key: pytest.approx(value, rel=rel) if isinstance(value, float | dict) else value
        for key, value in record.items()
    }


def test_a_run_scores_itself_as_its_checkpoint_is_scored(text: Run, tmp_path: Path) -> None:
    found = written(text)
    assert [(each["what"], each["length"]) for each in found] == [
        *(("text", 8), ("text", 64), ("states", 8), ("states", 64)),
        *([("context", 8)] * 4 + [("context", 64)] * 7),
    ]
    words = [word.removeprefix("scores.") for word in ASKED]
    words += [f"checkpoint={text.folder}", "row=512", f"out={tmp_path}/scores.json"]
    again = evaluate(compose(words, "eval"))
    assert [same(each) for each in again] == found


def test_a_context_is_all_that_is_seen(text: Run) -> None:
    """Each target after a document of exactly the tokens before it, one at a time."""
    data = open_data(compose(text.overrides).data)
    documents = data.documents(Side.validation)
    with torch.device("meta"):
        model = Decoder(compose(text.overrides).resolved(data.vocab_size).model)
    model.load_state_dict(text.weights(2), assign=True)
    records = [each for each in written(text) if each["what"] == "context" and each["length"] == 64]
    every = [
        int(start) + place
        for start, size in zip(*documents, strict=True)
        for place in range(64, int(size))
    ]
    [count] = {each["targets"] for each in records}
    assert count == 450 // 128
    targets = [every[i * len(every) // count] for i in range(count)]
    for each in records:
        layout, losses = SequenceLayout.of_lengths([each["context"]]), []
        for target in targets:
            window = data.read(np.array([target - each["context"]]), each["context"] + 1)[0]
            tokens = torch.from_numpy(window.astype(np.int64))
            with torch.no_grad():
                losses.append(-model(tokens[:-1], layout).log_softmax(-1)[-1, tokens[-1]].item())
        assert each["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("processes", "engine", "sequence"),
    [
        (2, "fsdp", 1),
        pytest.param(2, "ddp", 1, marks=pytest.mark.long),
        pytest.param(2, "ddp", 2, marks=pytest.mark.long),
        pytest.param(4, "fsdp", 4, marks=pytest.mark.long),
        pytest.param(4, "hsdp", 2, marks=pytest.mark.long),
    ],
)
def test_any_processes_find_the_same(
    text: Run, tmp_path: Path, processes: int, engine: str, sequence: int
) -> None:
    run = Run(tmp_path / "run", text.overrides[:-1])
    more = [f"engine={engine}", f"parallel.sequence={sequence}"]
    if engine == "hsdp":
        more.append("engine.replicas=2")
    config = compose([*run.overrides, *ASKED, *more])
    for records in world.run(processes, _train_and_score, config, str(text.folder)):
        assert [same(each) for each in records] == written(text)
    assert [same(each, rel=1e-4) for each in written(run)] == written(text)


def _train_and_score(config: RunConfig, other: str) -> list[dict[str, Any]]:
    """Train a run that scores itself, then score another with all processes to a row."""
    processes = dist.get_world_size()
    train(open_run(config), world=processes, alone=False)
    os.environ["WORLD_SIZE"] = str(processes)
    words = [word.removeprefix("scores.") for word in ASKED]
    words += [f"checkpoint={other}", f"out={config.run.dir}/other.json"]
    return evaluate(compose([*words, f"parallel.sequence={processes}"], "eval"))


def test_what_was_killed_before_its_scores_makes_up_for_them(
    text: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, honest = Run(tmp_path / "run", text.overrides[:-1]), scoring.scores

    def fatal(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the power is gone")

    monkeypatch.setattr(scoring, "scores", fatal)
    with pytest.raises(RuntimeError, match="the power is gone"):
        run.train(*ASKED)
    assert not (run.folder / "done").exists()

    def interrupted(*args: Any, **named: Any) -> Any:
        for number, record in enumerate(honest(*args, **named)):
            if number == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield record

    monkeypatch.setattr(scoring, "scores", interrupted)
    assert run.train(*ASKED) == 128 + signal.SIGTERM
    assert not (run.folder / "done").exists()
    assert not (run.folder / "scores.json").exists()
    monkeypatch.setattr(scoring, "scores", honest)
    assert run.train(*ASKED) == 0
    assert written(run) == written(text)
    assert (run.folder / "done").exists()
    assert len(run.losses) == 2


def test_a_finished_run_is_scored_when_it_is_asked(text: Run, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", text.overrides[:-1])
    assert run.train() == 0
    assert not (run.folder / "scores.json").exists()
    asked = ["scores.what=[text]", "scores.lengths=[16,4096]", "scores.tokens=512"]
    assert run.train(*asked) == 0
    [only] = written(run)
    assert (only["what"], only["length"]) == ("text", 16)  # no document has 4,096 tokens
    before = (run.folder / "scores.json").stat().st_mtime_ns
    assert run.train(*asked) == 0
    assert (run.folder / "scores.json").stat().st_mtime_ns == before
    assert run.train(*asked, "scores.what=[text,states]", "scores.lengths=[16]") == 0
    assert [each["what"] for each in written(run)] == ["text", "states"]
    evaluate(compose([f"checkpoint={run.folder}", "tokens=512", "lengths=[16]"], "eval"))
    assert run.train(*asked, "scores.what=[text,states]", "scores.lengths=[16]") == 0
    assert [each["what"] for each in written(run)] == ["text", "states"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["scores.what=[task]"], "scores.what has task, which needs data.task.name"),
        (["scores.what=[states]", "model.pattern=AW"], "model.pattern=AW has none: leave it out"),
        (["scores.what=[text]", "scores.lengths=[48]"], "scores.lengths=[48] must be powers of"),
        (["scores.what=[text]", "scores.tokens=0"], "scores.tokens=0 must be at least 1"),
        (["scores.what=[text]", "engine=deepspeed_zero1"], "scores.what=[text] reads parameters"),
    ],
)
def test_what_a_run_cannot_be_asked_is_told(tiny: list[str], words: list[str], told: str) -> None:
    problems = compose([*tiny, *words]).check(2)
    assert any(told in problem for problem in problems), problems
