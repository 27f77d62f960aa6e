"""Processes measure the pace of a run together, and leave what they hold as it was."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
from world import run

from lmtrain.config import compose
from lmtrain.train import pace
from lmtrain.train.birth import birth
from lmtrain.train.engines import open_engine
from lmtrain.train.objective import open_objective
from lmtrain.train.opening import open_run
from lmtrain.train.steps import add_gradients

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

pytestmark = pytest.mark.slow

SECONDS = {16: (0.5, 0.25), 32: (1.0, 2.0), 64: (1.5, 1.5)}
"""Of an update, by the clocks of two processes."""

FSDP, DDP = [], ["engine.kind=ddp", "train.accumulate=2", "optim.kind=muon"]
OTHERS = [
    ["engine.offload=parameters"],
    ["parallel.sequence=2"],
    *(["engine.kind=deepspeed", f"engine.zero={stage}"] for stage in (1, 2, 3)),
]


def steps(words: list[str], *, measured: bool) -> tuple[Any, dict[str, Tensor]]:
    """What was measured, and what a process holds after three updates."""
    opened = open_run(compose(words))
    config = opened.config
    engine = open_engine(config.engine, config.parallel, world=2)
    model, optimizer = birth(config, engine)
    objective = open_objective(config, engine)
    found = pace.measure(opened, engine, model, optimizer, objective) if measured else None

    with opened.loader(engine, opened.plan, range(3)) as loader:
        for index, batches in enumerate(loader):
            targets = opened.plan.targets(index)
            add_gradients(index, batches, targets, model, objective, engine)
            engine.step(optimizer, lr=0.01, clip=0.5)
    parts = engine.snapshot(model, optimizer).parts.items()
    engine.close()
    return found, {f"{k}.{n}": shard.values for k, part in parts for n, shard in part.items()}


def measure(engines: list[list[str]]) -> list[dict[str, float]]:
    """What a process measured under each engine; every process calls it."""
    torch.use_deterministic_algorithms(True)  # fills what is not initialised with NaN
    rank, now, add = dist.get_rank(), 0.0, pace.add_gradients
    os.environ["LOCAL_RANK"] = str(rank)

    def late(index: int, batches: list, *args: Any) -> Any:
        nonlocal now
        [length] = {b - a for each in batches for a, b in zip(*ends(each.layout), strict=True)}
        now += SECONDS[length][rank]
        return add(index, batches, *args)

    pace.perf_counter, pace.add_gradients = lambda: now, late
    seconds = []
    for words in engines:
        measured, holds = steps([*words, "budget.hours=1"], measured=True)
        _, expected = steps([*words, "train.steps=3"], measured=False)
        assert holds.keys() == expected.keys()
        for key, values in expected.items():
            assert torch.equal(holds[key], values), (words[-1], key)
        seconds.append(measured.seconds)
    return seconds


def ends(layout: Any) -> tuple[list[int], list[int]]:
    return list(layout.bounds[:-1]), list(layout.bounds[1:])


@pytest.mark.parametrize(
    "engines",
    [
        [FSDP, DDP],
        pytest.param(
            OTHERS,
            marks=[
                pytest.mark.long,
                pytest.mark.skipif(not find_spec("deepspeed"), reason="deepspeed is missing"),
            ],
        ),
    ],
)
def test_the_slowest_process_decides_and_nothing_moves(
    tiny: list[str], tmp_path: Path, engines: list[list[str]]
) -> None:
    words = [word for word in tiny if not word.startswith("train.steps")]
    words += ["model.pattern=MA", "model.n_layers=2", "engine.device=cpu"]
    words.append(f"run.dir={tmp_path / 'run'}")
    one, other = run(2, measure, [[*words, *engine] for engine in engines])
    expected = {f"pieces of {length}": max(seconds) for length, seconds in SECONDS.items()}
    assert one == other == [expected] * len(engines)
