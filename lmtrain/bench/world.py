"""What the benchmarks of several processes share: joining them, and telling time together."""

from __future__ import annotations

import os
import statistics
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from lmtrain.bench.config import BenchConfig, BenchDevice
from lmtrain.parallel.mesh import processes_of_hosts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def alone(config: BenchConfig) -> list[str]:
    """A problem if there are not several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return []
    return [
        f"what={config.what} measures between processes: start it as `torchrun --nproc-per-node=2 "
        f"-m lmtrain bench what={config.what}`"
    ]


@contextmanager
def joined(config: BenchConfig) -> Iterator[torch.device]:
    """This process among the others of torchrun: gloo on CPUs, nccl on GPUs."""
    if config.threads:
        torch.set_num_threads(config.threads)
    device = torch.device("cpu")
    if config.device is BenchDevice.cuda:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def ranks_per_host() -> int:
    """Processes of each host.

    Raises:
        ValueError: hosts differ.
    """
    found = set(processes_of_hosts(torch.device("cpu"), untold=1))
    if len(found) > 1:
        raise ValueError(
            f"hosts have {' and '.join(map(str, sorted(found)))} processes: start equally many"
        )
    return found.pop()


def slowest(value: float) -> float:
    """The largest of all ranks."""
    everywhere = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(everywhere, dist.ReduceOp.MAX)
    return everywhere.item()


def seconds(work: Callable[[], object], config: BenchConfig, device: torch.device) -> float:
    """Median time of ``work``, which every rank begins together, on the slowest rank."""
    times: list[float] = []
    for turn in range(config.warm_up + config.repeats):
        dist.barrier()
        started = now(device)
        work()
        if turn >= config.warm_up:
            times.append(slowest(now(device) - started))
    return statistics.median(times)


def now(device: torch.device) -> float:
    """Seconds, once everything that was started is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
