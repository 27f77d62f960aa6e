"""Several processes on this machine that speak over gloo."""

from __future__ import annotations

import gc
import os
import traceback
from contextlib import suppress
from queue import Empty
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from forked import places
from torch.multiprocessing import get_context

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS = 1200
IMPORTED = [
    "torch._dynamo",
    "lmtrain.evaluate.evaluate",
    "lmtrain.train.engines.fsdp",
    "lmtrain.train.trainer",
]
"""What takes seconds to import: a server does it once, and forks what tests start."""

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(IMPORTED)


def run(world: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """``work(*args)`` on each of ``world`` ranks; what every rank returns, or the first error."""
    results = CONTEXT.Queue()
    with TemporaryDirectory() as folder:
        ranks = [
            CONTEXT.Process(target=_rank, args=(r, world, folder, results, work, args), daemon=True)
            for r in range(world)
        ]
        for rank in ranks:
            rank.start()
        found = dict(_next_result(ranks, results) for _ in ranks)
        for rank in ranks:
            rank.join()
    errors = [value for ok, value in found.values() if not ok]
    assert not errors, "\n".join(errors)
    return [found[rank][1] for rank in range(world)]


def torchrun(size: int, work: Callable[..., Any], *args: Any) -> None:
    """``work(*args)`` in processes that stand where torchrun would put them; none may fail."""
    ranks = [
        CONTEXT.Process(target=_placed, args=(place, work, args), daemon=True)
        for place in places(size)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(PATIENCE_SECONDS)
    assert [rank.exitcode for rank in ranks] == [0] * size


def _placed(environment: dict[str, str], work: Callable[..., Any], args: Any) -> None:
    os.environ.update(environment)
    work(*args)


def _next_result(ranks: list[Any], results: Any) -> tuple[int, tuple[bool, Any]]:
    """What the next rank that is done has to say; a queue holds little, so read before joining."""
    for _ in range(PATIENCE_SECONDS):
        with suppress(Empty):
            return results.get(timeout=1)
        assert any(rank.is_alive() for rank in ranks), "a rank died without a word"
    raise AssertionError("a rank hangs")


def _rank(rank: int, world: int, folder: str, results: Any, work: Any, args: Any) -> None:
    torch.set_num_threads(1)
    gc.set_threshold(50_000, 20, 100)  # as in conftest.py
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
        )
        results.put((rank, (True, work(*args))))
        dist.destroy_process_group()
    except BaseException:
        results.put((rank, (False, f"rank {rank}: {traceback.format_exc()}")))
        raise
