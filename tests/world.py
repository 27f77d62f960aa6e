"""Several processes on this machine that speak over gloo."""

from __future__ import annotations

import os
import traceback
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.multiprocessing import get_context

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS = 1200


def run(world: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """``work(*args)`` on each of ``world`` ranks; what every rank returns, or the first error."""
    context = get_context("spawn")
    results = context.SimpleQueue()
    with TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=_rank, args=(r, world, folder, results, work, args), daemon=True)
            for r in range(world)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(PATIENCE_SECONDS)
            assert rank.exitcode is not None, "a rank hangs"
    found = dict(results.get() for _ in ranks)
    errors = [value for ok, value in found.values() if not ok]
    assert not errors, "\n".join(errors)
    return [found[rank][1] for rank in range(world)]


def _rank(rank: int, world: int, folder: str, results: Any, work: Any, args: Any) -> None:
    torch.set_num_threads(1)
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
