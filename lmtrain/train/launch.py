"""From a configuration to processes that train: none to start, or one per part of the batch."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from lmtrain.config import RunConfig, require
from lmtrain.train.opening import open_run
from lmtrain.train.stop import SIGNALS, end_with, say_stopping
from lmtrain.train.trainer import Outcome, train

if TYPE_CHECKING:
    from types import FrameType

    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure


OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Tells torch's launcher to let processes meet in a store of their own. The one it shares with them
otherwise keeps their addresses from one start to the next (pytorch issue 135712)."""

LOGGERS = ("torch.distributed.elastic.multiprocessing.api", "torch.multiprocessing.spawn")
"""Where torch's launcher tells how its workers end, with tracebacks."""


def launch(config: RunConfig) -> int:
    """Train as the configuration says; the exit code, which says so when a signal stopped it.

    Under torchrun this process is one of the workers already. Otherwise ``launch.nproc`` decides:
    one process trains right here, several are started on this machine.

    Raises:
        ValueError: the configuration has problems; all of them are told, and nothing was written.
            Or the run cannot go on, and says why.
        ChildProcessError: a worker failed more often than ``launch.restarts``.
    """
    joined = "WORLD_SIZE" in os.environ
    world = int(os.environ["WORLD_SIZE"]) if joined else config.launch.nproc
    require([*config.check(world), *_restartable(os.environ)])
    opened = open_run(config)
    if opened.finished:
        print(
            f"run.dir={config.run.dir} is finished at step {opened.first_step}: raise train.steps "
            "(or its budget) to continue it, or choose another run.dir"
        )
        return 0
    _share_cores(config.launch.threads, int(os.environ.get("LOCAL_WORLD_SIZE", world)))
    if joined or (world == 1 and not config.launch.restarts):
        outcome = train(opened, world=world, alone=not joined)
    else:
        outcome = _spawn(config)
    return 0 if outcome.signal is None else config.launch.exit_code(outcome.signal)


def _restartable(environment: Mapping[str, str]) -> list[str]:
    """Why a launcher cannot start these processes again, a sentence with the remedy."""
    again = environment.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    if not again or environment.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return []
    return [
        f"torchrun --max-restarts={environment['TORCHELASTIC_MAX_RESTARTS']} would let processes "
        "that are started again find the addresses of those that died: run it with "
        f"--rdzv-backend=c10d, and with {OWN_STORE}=1 in its environment"
    ]


def _spawn(config: RunConfig) -> Outcome:
    """Start the workers on this machine, again if they die, and wait for them."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault(OWN_STORE, "1")
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        run_id="lmtrain",
        nproc_per_node=config.launch.nproc,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",  # the host's own name may have no address
        max_restarts=config.launch.restarts,
        signals_to_handle="SIGHUP",  # the others are relayed here: it would end saving workers
    )
    with _relayed_signals() as heard, _one_mistake() as mistake:
        try:
            outcome = elastic_launch(settings, _work)(config, heard, mistake)[0]
            return replace(outcome, signal=heard[0]) if heard and outcome.signal else outcome
        except ChildFailedError as error:
            if not heard and not mistake.exists():
                raise ChildProcessError(_end_of_worker(*error.get_first_failure())) from error
            return Outcome(step=0, signal=next(iter(heard), None))  # when their time was up


@contextmanager
def _one_mistake() -> Iterator[Path]:
    """A file in which a worker leaves its sentence, which then stands for all that torch says.

    Raises:
        ValueError: with that sentence.
    """
    with TemporaryDirectory() as folder:
        mistake = Path(folder, "mistake")
        shown = os.environ.get("LMTRAIN_TRACEBACK") == "1"

        def wanted(_: logging.LogRecord) -> bool:
            return shown or not mistake.exists()

        loggers = [logging.getLogger(name) for name in LOGGERS]
        for logger in loggers:
            logger.addFilter(wanted)
        try:
            yield mistake
        finally:
            for logger in loggers:
                logger.removeFilter(wanted)
        if mistake.exists():
            raise ValueError(mistake.read_text(encoding="utf-8"))


def _end_of_worker(rank: int, failure: ProcessFailure) -> str:
    """How the first worker that failed ended."""
    if failure.exitcode < 0:
        return f"a worker failed: {failure.signal_name()} ended process {rank}"
    return f"a worker failed, process {rank}; what it said stands above"


def _work(config: RunConfig, heard: list[int], mistake: Path) -> Outcome:
    """One worker. It ends with its parent, which relays Ctrl-C to it as SIGTERM.

    Args:
        config: of the run.
        heard: signals that the parent had heard when it started this worker.
        mistake: a file for the sentence that ends the run; there, once a worker has left it.

    Raises:
        ValueError: a mistake, which also ends workers that wait for this one.
    """
    if parent := multiprocessing.parent_process():
        end_with(parent.pid or 0)
    if heard or mistake.exists():  # which no restart cures
        return Outcome(step=0, signal=next(iter(heard), None))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _share_cores(config.launch.threads, config.launch.nproc)
    try:
        return train(open_run(config), world=config.launch.nproc, alone=False)
    except ValueError as error:
        with suppress(FileExistsError), mistake.open("x", encoding="utf-8") as file:
            file.write(str(error))
        raise


@contextmanager
def _relayed_signals() -> Iterator[list[int]]:
    """Ask the workers to stop at the first signal, kill them at the second."""
    heard: list[int] = []

    def relay(number: int, _: FrameType | None) -> None:
        heard.append(number)
        first = len(heard) == 1
        if first:
            say_stopping()
        passed_on = signal.SIGTERM if number == signal.SIGINT else number
        for worker in multiprocessing.active_children():
            if worker.pid is not None:
                os.kill(worker.pid, passed_on if first else signal.SIGKILL)
        if not first:
            raise KeyboardInterrupt

    before = {n: signal.signal(n, relay) for n in SIGNALS}
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
