"""A synthetic task as the data of a run: read by any processes, planned, validated, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from runs import Run

from lmtrain.batch import IGNORED
from lmtrain.config import RunConfig, compose
from lmtrain.data.loader import Loader
from lmtrain.data.plan import Plan
from lmtrain.data.sources import open_data
from lmtrain.data.store import Side
from lmtrain.data.tasks.corpus import TaskCorpus
from lmtrain.data.tasks.task import examples
from lmtrain.data.validation import ValidationSet
from lmtrain.evaluate.generate import generate
from lmtrain.settings.engine import Device
from lmtrain.settings.generate import GenerateConfig
from lmtrain.train.opening import open_run

if TYPE_CHECKING:
    from pathlib import Path

SIZES = ["train.tokens_per_step=768", "curriculum.min_length=32", "curriculum.max_length=128"]


def composed(cache: Path, *more: str) -> RunConfig:
    rows = ["data.task.lengths=[32,128]", "data.task.rows=100", "data.task.val_rows=7"]
    return compose(["data=task", *SIZES, *rows, f"data.cache={cache}", *more])


def corpus(config: RunConfig) -> TaskCorpus:
    data = open_data(config.data)
    assert isinstance(data, TaskCorpus)
    return data


def plan_of(config: RunConfig) -> Plan:
    return Plan.build(
        corpus(config), config.curriculum, seed=0, tokens_per_step=config.train.tokens_per_step
    )


def test_documents_are_rows_and_their_end(tmp_path: Path) -> None:
    data = corpus(composed(tmp_path))
    for side, count, first in ((Side.train, 100, 0), (Side.validation, 7, 100)):
        starts, lengths = data.documents(side)
        assert lengths.tolist() == [33] * count + [129] * count
        rows = data.read(starts[:count], 33)
        drawn = examples(data.task, np.arange(first, first + count), seed=0, length=32)
        assert np.array_equal(rows[:, :-1], drawn.tokens)
        assert (rows[:, -1] == data.end_of_text).all()
    assert data.read(np.array([5, 33 * 107 + 2]), 3).shape == (2, 3)


@pytest.mark.parametrize("task", ["mqar", "parity", "passkey"])
@pytest.mark.parametrize(("world", "sequence"), [(1, 2), (3, 1), (2, 3)])
def test_any_processes_read_the_same_pairs(
    tmp_path: Path, task: str, world: int, sequence: int
) -> None:
    """Spans of three to a row begin and end inside rows of the task."""
    config = composed(tmp_path, f"data.task.name={task}", "train.tokens_per_step=1536")
    data, plan = corpus(config), plan_of(config)
    for step in range(4):
        [whole] = next(iter(Loader(data, plan, first_step=step, prefetch=0)))
        assert int((whole.targets != IGNORED).sum()) == plan.targets(step)
        parts = [
            next(
                iter(
                    Loader(
                        data, plan, first_step=step, rank=rank, world=world,
                        sequence_rank=part, sequence_world=sequence, prefetch=0,
                    )
                )
            )[0]
            for rank in range(world)
            for part in range(sequence)
        ]  # fmt: skip
        assert torch.equal(torch.cat([part.tokens for part in parts]), whole.tokens)
        assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)


def test_validation_counts_its_targets(tmp_path: Path) -> None:
    config = composed(tmp_path)
    held = ValidationSet(corpus(config), config.curriculum)
    assert held.targets == {32: 7 * 8, 128: 7 * 8}
    assert held.bytes is None
    found = dict.fromkeys(held.targets, 0)
    for length, batch in held.batches(256):
        found[length] += int((batch.targets != IGNORED).sum())
    assert found == held.targets


def test_numbers_are_words(tmp_path: Path) -> None:
    tokenizer = corpus(composed(tmp_path)).tokenizer()
    assert tokenizer.encode("3 17 128").ids == [3, 17, 128]
    assert tokenizer.decode([5, 0]) == "5 0"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.task.name=chess", "data.task.name=chess is no task: use one of mqar"),
        ("+data.task.options.needles=3", "data.task.options.needles is no field of mqar"),
        ("+data.task.options.pairs=9", "has rows too short"),
        ("+data.task.options={pairs: x}", "options.pairs=x must be a whole number, as 8"),
        ("+data.task.options={pairs: true}", "options.pairs=True must be a whole number, as 8"),
        ("+data.task.options={pairs: 0}", "options.pairs=0 must be positive, as 8"),
        ("+data.task.options={keys: -3}", "options.keys=-3 must be positive, as 64"),
        ("+data.task.options={power: many}", "options.power=many must be a number, as 0.01"),
        ("+data.task.options={power: nan}", "options.power=nan must be positive, as 0.01"),
        ("+data.task.options={pairs: 9, keys: 8}", "pairs=9 need as many keys"),
        ("+data.task.options={values: 2000000}", "makes 2000065 tokens: 1048576 are the most"),
        ("data.task.name=needles; +data.task.options={keys: 3}", "needles=4 need as many keys"),
        ("data.task.name=languages; +data.task.options={symbols: 1}", "symbols=1 cannot tell"),
        (
            "data.task.name=count; +data.task.options={group: 7}",
            "options.group=7 must be text, as Z7",
        ),
        ("data.task.name=count; +data.task.options={group: Z99999}", "none of Z2 to Z1024"),
        ("data.task.name=count; +data.task.options={group: 'Z²'}", "none of Z2 to Z1024"),
        ("data.task.lengths=[32,100]", "must be powers of two"),
        ("data.task.lengths=[32,256]", "above curriculum.max_length=128"),
        (
            "data.task.lengths=[16,32]; curriculum.remainder=pack; +data.task.options={pairs: 4}",
            "rows below curriculum.min_length=32, which would drop them: lower it",
        ),
        (
            "data.task.lengths=[128]; curriculum=fixed; curriculum.length=64",
            "the 64 of curriculum.name=fixed, which would cut or drop them",
        ),
        (
            "curriculum.name=window_warmup",
            "the 128 of curriculum.name=window_warmup, which would cut",
        ),
        (
            "data.task.lengths=[32]; curriculum=fixed; curriculum.length=32; "
            "curriculum.min_length=64",
            "rows below curriculum.min_length=64",
        ),
        ("data.task.rows=0", "data.task.rows=0 must be at least 1"),
        ("data.source=stdlib", "data.source=stdlib is text"),
        ("curriculum=concat", "curriculum.view=concat would cut its rows"),
    ],
)
def test_what_cannot_be_is_told(tmp_path: Path, override: str, told: str) -> None:
    problems = composed(tmp_path, *override.split("; ")).check(1)
    assert any(told in problem for problem in problems), problems


@pytest.mark.parametrize(
    "more", [["curriculum.remainder=pack"], ["curriculum.remainder=keep"], ["curriculum=natural"]]
)
def test_a_step_holds_the_targets_of_whole_rows(tmp_path: Path, more: list[str]) -> None:
    config = composed(tmp_path, *more)
    data, plan = corpus(config), plan_of(config)
    assert config.check(1) == []
    assert set(plan.lengths) == {32, 128}
    for step in range(8):
        rows = config.train.tokens_per_step // plan.length(step)
        [batch] = next(iter(Loader(data, plan, first_step=step, prefetch=0)))
        there = int((batch.targets != IGNORED).sum())
        assert there == plan.targets(step) == rows * data.task.targets(plan.length(step))


@pytest.mark.slow
def test_a_run_learns_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "model=debug", "model.pattern=GA", "model.d_model=32", "model.n_layers=2", "data=task",
        *SIZES, "data.task.lengths=[32,128]", f"data.cache={tmp_path}", "curriculum.cycle_steps=4",
        "validation.every=4", "samples.count=1", "samples.tokens=4", "train.steps=8",
        "optim.warmup_steps=1",
    ]  # fmt: skip
    run = Run(tmp_path / "run", words)
    assert run.train() == 0
    assert len(run.losses) == 8
    assert run.losses[0] > run.losses[-1]
    [sample] = (tmp_path / "run" / "samples").iterdir()
    assert all(word.isdigit() for word in sample.read_text().split())

    capsys.readouterr()
    generate(GenerateConfig(checkpoint=str(tmp_path / "run"), tokens=3, device=Device.cpu))
    assert capsys.readouterr().out.split()[0] == "0"
    with pytest.raises(ValueError, match="^samples.prompt='hello' is nothing that the run's"):
        open_run(compose([*words, f"run.dir={tmp_path / 'other'}", "samples.prompt=hello"]))
