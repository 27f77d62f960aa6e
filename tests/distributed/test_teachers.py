"""A teacher spread over several processes teaches what it teaches in one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist
from runs import Run
from transformers_to_hybrids import teach
from world import run

from lmtrain.config import compose
from lmtrain.train.opening import open_run
from lmtrain.train.trainer import train

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

WAYS = {
    "fsdp": ["train.accumulate=2", "engine.remat=full"],
    "ddp": ["engine.kind=ddp"],
    "shared": ["parallel.sequence=2", "engine.prefetch=2"],
}
MORE = {
    "replicas": ["engine.replicas=2"],
    "offload": ["engine.offload=parameters"],
    "ddp in parts": ["engine.kind=ddp", "train.accumulate=2"],
    "shared ddp": ["parallel.sequence=2", "engine.kind=ddp"],
}


def follow(ways: list[list[str]]) -> None:
    """Train runs one after the other; both processes call it."""
    torch.use_deterministic_algorithms(True)  # fills what is not initialised with NaN
    os.environ["LOCAL_RANK"] = str(dist.get_rank())
    for words in ways:
        config = compose(words)
        assert not config.check(2)
        train(open_run(config), world=2, alone=False)
        dist.barrier()


@pytest.mark.parametrize("ways", [WAYS, pytest.param(MORE, marks=pytest.mark.long)], ids=" ".join)
def test_two_processes_learn_from_a_teacher_like_one(
    ways: dict[str, list[str]], tiny: list[str], tmp_path: Path
) -> None:
    taught = teach(tiny, tmp_path, pattern="GMWA", steps=10)
    stages = taught.words("distill.layers_steps=2", "distill.logits_steps=2", "train.steps=6")
    alone = Run(tmp_path / "alone", [*stages, "engine.device=cpu"])
    assert alone.train() == 0
    others = {name: Run(tmp_path / name, alone.overrides[:-1]) for name in ways}
    run(2, follow, [[*others[name].overrides, *words] for name, words in ways.items()])
    for name, other in others.items():
        for ours, theirs in zip(other.metrics, alone.metrics, strict=True):
            for key in theirs.keys() & {"loss", "grad_norm", "val_loss"}:
                place = f"{key} of step {theirs['step']} by {name}"
                assert ours[key] == pytest.approx(theirs[key], rel=1e-5), place
