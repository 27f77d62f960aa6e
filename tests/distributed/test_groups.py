"""Groups of processes: how long they wait, who lets go of them, and who may share a row."""

from __future__ import annotations

import os
import weakref
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import world

from lmtrain.config import compose
from lmtrain.train.birth import birth
from lmtrain.train.engines import open_engine
from lmtrain.train.engines.ddp import DdpEngine
from lmtrain.train.engines.fsdp import FsdpEngine

PATIENCE = 77


def opened(words: list[str], *, size: int):
    """The engine of one of ``size`` processes, and its configuration."""
    config = compose([*words, f"launch.timeout_seconds={PATIENCE}"]).resolved(257)
    timeout = config.launch.timeout
    return open_engine(config.engine, config.parallel, world=size, timeout=timeout), config


def patience(group: dist.ProcessGroup) -> timedelta:
    """How long a message in a group may take."""
    return group._get_backend(torch.device("cpu")).options._timeout


def patience_of_all(words: list[str]) -> set[timedelta]:
    """Of every group that one of four processes opened."""
    engine, config = opened([*words, "engine=hsdp", "engine.replicas=2"], size=4)
    assert isinstance(engine, FsdpEngine)
    birth(config, engine)
    mesh = engine._mesh()
    others = [mesh.get_group(name) for name in ("replica", "shard")]
    everywhere = dist.distributed_c10d._world.pg_map
    ours = [group for group in everywhere if group is not dist.group.WORLD]
    assert len(ours) >= 4, "rows in two and in four, replicas, shards"
    found = {patience(group) for group in (*ours, *others)}
    dist.barrier()  # who leaves while others still open a group breaks theirs
    return found


@pytest.mark.slow
def test_every_group_waits_as_long_as_the_run_says(tiny: list[str]) -> None:
    for found in world.run(4, patience_of_all, [*tiny, "parallel.sequence=4"]):
        assert found == {timedelta(seconds=PATIENCE)}


def reducer_after_close(words: list[str]) -> bool:
    """Whether DDP is still there when the group of a run is left."""
    engine, config = opened([*words, "engine=ddp"], size=2)
    assert isinstance(engine, DdpEngine)
    model, _ = birth(config, engine)
    ddp = weakref.ref(engine._ddp)
    assert ddp() is not None
    engine.close()
    assert any(parameter.numel() for parameter in model.parameters())
    return ddp() is not None


def test_ddp_goes_before_its_group(tiny: list[str]) -> None:
    """As the last to hold it, it would wait for ever for threads that wait for Python."""
    assert world.run(2, reducer_after_close, tiny) == [False, False]


def shared_over_unlike_hosts(words: list[str]) -> str:
    """What a process says whose host has another number of them."""
    os.environ["LOCAL_WORLD_SIZE"] = str(1 + dist.get_rank())
    engine, config = opened([*words, "engine=ddp", "parallel.sequence=2"], size=2)
    with pytest.raises(ValueError, match="hosts have different numbers of processes") as raised:
        birth(config, engine)
    return str(raised.value)


def test_hosts_that_share_rows_have_equally_many_processes(tiny: list[str]) -> None:
    said = world.run(2, shared_over_unlike_hosts, tiny)
    assert ["(1 on that of process 0)" in said[0], "(2 on that of process 1)" in said[1]] == [
        True
    ] * 2
