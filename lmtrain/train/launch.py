"""From a configuration to processes that train: none to start, or one per part of the batch."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from lmtrain.config import RunConfig, require
from lmtrain.train.stop import say_stopping
from lmtrain.train.trainer import Outcome, open_run, train

if TYPE_CHECKING:
    from types import FrameType


def launch(config: RunConfig) -> int:
    """Train as the configuration says; the exit code, 128 + signal when a signal stopped it.

    Under torchrun this process is one of the workers already. Otherwise ``launch.nproc`` decides:
    one process trains right here, several are started on this machine.

    Raises:
        ValueError: the configuration has problems; all of them are told, and nothing was written.
    """
    joined = "WORLD_SIZE" in os.environ
    world = int(os.environ["WORLD_SIZE"]) if joined else config.launch.nproc
    require(config.check(world))
    opened = open_run(config)
    if opened.finished:
        print(
            f"run.dir={config.run.dir} is finished at step {opened.first_step}: raise train.steps "
            "to continue it, or choose another run.dir"
        )
        return 0
    _share_cores(config.launch.threads, int(os.environ.get("LOCAL_WORLD_SIZE", world)))
    if joined or world == 1:
        outcome = train(opened, world=world, alone=not joined)
    else:
        outcome = _spawn(config)
    return 0 if outcome.signal is None else 128 + outcome.signal


def _spawn(config: RunConfig) -> Outcome:
    """Start the workers on this machine and wait for them."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        run_id="lmtrain",
        nproc_per_node=config.launch.nproc,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle="SIGHUP",  # the others are relayed here: it would end saving workers
    )
    with _relayed_signals() as heard:
        try:
            outcome = elastic_launch(settings, _work)(config)[0]
            return replace(outcome, signal=heard[0]) if heard and outcome.signal else outcome
        except ChildFailedError as error:
            if heard:
                raise KeyboardInterrupt from error
            raise SystemExit("lmtrain: a worker failed; what it said stands above") from error


def _work(config: RunConfig) -> Outcome:
    """One worker. Ctrl-C reaches it as the SIGTERM that the parent relays."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _share_cores(config.launch.threads, config.launch.nproc)
    return train(open_run(config), world=config.launch.nproc, alone=False)


@contextmanager
def _relayed_signals() -> Iterator[list[int]]:
    """Ask the workers to stop at the first signal, kill them at the second."""
    heard: list[int] = []

    def relay(number: int, _: FrameType | None) -> None:
        heard.append(number)
        if len(heard) == 1:
            say_stopping()
        for worker in multiprocessing.active_children():
            if worker.pid is not None:
                os.kill(worker.pid, signal.SIGTERM if len(heard) == 1 else signal.SIGKILL)

    before = {n: signal.signal(n, relay) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _share_cores(threads: int | None, processes: int) -> None:
    """Give each process on this machine its part of the cores, unless the user chose otherwise."""
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, len(os.sched_getaffinity(0)) // processes)
    if threads is not None:
        torch.set_num_threads(threads)
