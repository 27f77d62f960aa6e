"""A teacher spread over several processes teaches what it teaches in one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from forked import ranks
from runs import Run
from transformers_to_hybrids import Taught, teach

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

STAGES = ("distill.layers_steps=2", "distill.logits_steps=2", "train.steps=6", "engine.device=cpu")
WAYS = {
    "fsdp": ["train.accumulate=2", "engine.remat=full"],
    "shared ddp": ["parallel.sequence=2", "engine.kind=ddp"],
}
MORE = {
    "replicas": ["engine.replicas=2"],
    "offload": ["engine.offload=parameters"],
    "ddp": ["engine.kind=ddp"],
    "ddp in parts": ["engine.kind=ddp", "train.accumulate=2"],
    "shared rows": ["parallel.sequence=2", "engine.prefetch=2"],
}


@pytest.fixture(scope="module")
def taught(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Taught:
    return teach(tiny, tmp_path_factory.mktemp("taught"), pattern="GMWA", steps=10)


@pytest.fixture(scope="module")
def alone(taught: Taught, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What one process learns."""
    run = Run(tmp_path_factory.mktemp("alone") / "run", taught.words(*STAGES))
    assert run.train() == 0
    return run


@pytest.mark.parametrize(
    "way", [*WAYS, *(pytest.param(way, marks=pytest.mark.long) for way in MORE)]
)
def test_two_processes_learn_from_a_teacher_like_one(
    way: str, taught: Taught, alone: Run, tmp_path: Path
) -> None:
    both = Run(tmp_path / "run", taught.words(*STAGES))
    assert ranks(2, partial(both.train, *{**WAYS, **MORE}[way])) == [0, 0]
    for ours, theirs in zip(both.metrics, alone.metrics, strict=True):
        for key in theirs.keys() & {"loss", "grad_norm", "val_loss"}:
            place = f"{key} of step {theirs['step']}"
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5), place
