"""A few steps of a run under an engine, from one checkpoint to another; any world calls it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

import pytest
import torch
import torch.distributed as dist

from lmtrain.config import compose
from lmtrain.data.loader import Loader
from lmtrain.train.birth import birth
from lmtrain.train.engines import open_engine
from lmtrain.train.opening import open_run

if TYPE_CHECKING:
    from pathlib import Path

    from torch.optim import Optimizer

    from lmtrain.models.decoder import Decoder
    from lmtrain.train.engines import Engine


class Leg(NamedTuple):
    """Some steps of a run."""

    overrides: list[str]
    first: int = 0
    stop: int = 5
    load: Path | None = None
    save: Path | None = None
    discard: int | None = None
    """A step whose gradients are computed once more before, and forgotten."""
    broken: int | None = None
    """A step whose gradients are infinite: it must be refused, and ends the leg."""


class Seen(NamedTuple):
    """What every step of a leg gave."""

    losses: list[float]
    norms: list[float]
    """Of the gradients, before they were clipped."""


def follow(legs: list[Leg]) -> list[Seen]:
    """Train them one after the other; every process of the world calls it."""
    torch.use_deterministic_algorithms(True)  # fills what is not initialised with NaN
    if dist.is_initialized():
        os.environ["LOCAL_RANK"] = str(dist.get_rank())
    return [_train(leg) for leg in legs]


def _train(leg: Leg) -> Seen:
    world = dist.get_world_size() if dist.is_initialized() else 1
    config = compose(leg.overrides)
    assert not config.check(world)
    opened = open_run(config)
    config, seen = opened.config, Seen([], [])
    engine = open_engine(config.engine, config.parallel, world=world)
    model, optimizer = birth(config, engine)
    if leg.load:
        engine.load(leg.load, model, optimizer)
    for step, batches in enumerate(_batches(opened, engine, leg), leg.first):
        if step == leg.broken:
            _check_refused(engine, model, optimizer, batches)
            break
        nll, targets = torch.zeros(1, dtype=torch.float64), opened.plan.targets(step)
        for again in (True, False) if step == leg.discard else (False,):
            nll.zero_()
            for batch in engine.parts(batches):
                losses = engine.forward(model, batch, z_loss=config.train.z_loss)
                engine.backward(losses.total / targets)
                nll += losses.nll.sum(dtype=torch.float64)
            if again:
                engine.discard(optimizer)
        seen.norms.append(engine.step(optimizer, lr=config.optim.lr, clip=config.optim.clip))
        seen.losses.append(engine.total(nll).item() / targets)
    if leg.save:
        engine.snapshot(model, optimizer).write(leg.save)
    engine.close()
    return seen


def _check_refused(engine: Engine, model: Decoder, optimizer: Optimizer, batches: list) -> None:
    """See that infinite gradients leave the parameters as they were."""
    before = engine.snapshot(model, optimizer).parts["model"]
    for batch in engine.parts(batches):
        engine.backward(engine.forward(model, batch).total * torch.inf)
    with pytest.raises(FloatingPointError, match="gradient's norm"):
        engine.step(optimizer, lr=0.01, clip=1.0)
    after = engine.snapshot(model, optimizer).parts["model"]
    assert before.keys() == after.keys()
    for name, shard in before.items():
        assert torch.equal(after[name].values, shard.values), name


def _batches(opened, engine, leg: Leg) -> list:
    config = opened.config
    with Loader(
        opened.store,
        opened.plan,
        first_step=leg.first,
        stop=leg.stop,
        accumulate=config.train.accumulate,
        **asdict(engine.place),
        device=engine.device,
        prefetch=1,
        threads=1,
    ) as loader:
        return list(loader)
