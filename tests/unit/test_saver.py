"""Checkpoints are written while training goes on, one at a time, and a failure costs only one."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from threading import Event, Timer
from typing import TYPE_CHECKING, Any

import pytest
import torch
from forked import instead

from lmtrain.config import RunConfig, compose
from lmtrain.settings.engine import Device, EngineConfig
from lmtrain.train import checkpoint, manifest
from lmtrain.train.birth import birth
from lmtrain.train.checkpoint import State
from lmtrain.train.engines.local import LocalEngine
from lmtrain.train.saver import Saver
from lmtrain.train.tensors import Snapshot, model_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.models.decoder import Decoder


@pytest.fixture
def engine() -> LocalEngine:
    return LocalEngine(EngineConfig(device=Device.cpu))


@pytest.fixture
def config(tiny: list[str]) -> RunConfig:
    return compose(tiny).resolved(257)


@pytest.fixture
def born(config: RunConfig, engine: LocalEngine) -> tuple[Decoder, torch.optim.Optimizer]:
    model, optimizer = birth(config, engine)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    engine.step(optimizer, lr=0.01, clip=None)
    return model, optimizer


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def saver(
    tmp_path: Path, config: RunConfig, engine: LocalEngine, told: list[str]
) -> Iterator[Saver]:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    saver = Saver(
        tmp_path / "checkpoints", engine, config=config, tokenizer=tokenizer, tell=told.append
    )
    yield saver
    saver.close()


def at(step: int) -> State:
    return State(step=step, plan="p", identity={})


def held(event: Event) -> Callable[..., Any]:
    """Writing that waits."""

    def write(original: Callable[..., Any], *args: Any) -> Any:
        assert event.wait(60)
        return original(*args)

    return write


def test_what_is_written_is_what_was_there_when_it_was_asked_for(
    tmp_path: Path, saver: Saver, engine: LocalEngine, born: Any
) -> None:
    model, optimizer = born
    before = {name: tensor.clone() for name, tensor in model_tensors(model).items()}
    go_on = Event()
    with instead(Snapshot, "write", held(go_on)):
        saver.save(at(1), model, optimizer)
        for parameter in model.parameters():
            parameter.data.fill_(7.0)
        assert not checkpoint.path(tmp_path / "checkpoints", 1).exists()
        go_on.set()
        saver.finish(must=True)
    folder = checkpoint.path(tmp_path / "checkpoints", 1)
    manifest.check(folder)
    engine.load(folder, model, optimizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model_tensors(model).items())


def test_one_is_written_at_a_time(tmp_path: Path, saver: Saver, born: Any) -> None:
    go_on = Event()
    with instead(Snapshot, "write", held(go_on)):
        saver.save(at(1), *born)
        timer = Timer(0.2, go_on.set)
        timer.start()
        saver.save(at(2), *born)
        assert checkpoint.path(tmp_path / "checkpoints", 1).exists()
        saver.finish()
        timer.join()
    assert checkpoint.path(tmp_path / "checkpoints", 2).exists()


def fail(error: Exception) -> Callable[..., Any]:
    def write(original: Callable[..., Any], self: Snapshot, folder: Path) -> None:
        original(self, folder)
        raise error

    return write


def test_a_disk_that_fails_costs_one_checkpoint(
    tmp_path: Path, saver: Saver, born: Any, told: list[str]
) -> None:
    saver.save(at(1), *born)
    with instead(Snapshot, "write", fail(OSError(errno.EIO, "broken"))):
        saver.save(at(2), *born)
        saver.finish()
        assert not saver.failed
    [line] = told
    assert "step_00000002 was not written (process 0: Input/output error): training goes" in line
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]
    saver.save(at(3), *born)
    saver.finish(must=True)
    assert checkpoint.newest(tmp_path / "checkpoints", {})[0] == checkpoint.path(
        tmp_path / "checkpoints", 3
    )


def test_the_last_checkpoint_must_be_written(saver: Saver, born: Any) -> None:
    with instead(Snapshot, "write", fail(OSError(errno.ENOSPC, "full"))):
        saver.save(at(2), *born)
        with pytest.raises(ValueError, match="No space left on device.*same command goes on"):
            saver.finish(must=True)


def test_a_name_that_is_taken_is_no_full_disk(tmp_path: Path, saver: Saver, born: Any) -> None:
    (checkpoint.path(tmp_path / "checkpoints", 2) / "model").mkdir(parents=True)
    saver.save(at(2), *born)
    with pytest.raises(
        ValueError, match=r"process 0: the folder exists already\).*goes on"
    ) as told:
        saver.finish(must=True)
    assert "disk" not in str(told.value)


def test_a_mistake_of_ours_is_not_hidden(saver: Saver, born: Any) -> None:
    with instead(Snapshot, "write", fail(KeyError("ours"))):
        saver.save(at(2), *born)
        with pytest.raises(KeyError, match="ours"):
            saver.finish()
