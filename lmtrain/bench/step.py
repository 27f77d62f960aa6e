"""One training step of models of one size, on the same tokens, taking turns.

Every model lives in a process of its own, so that its memory is its own; the processes work one
after the other, in an order that rotates, so that noise of the machine meets all of them.
"""

from __future__ import annotations

import multiprocessing
import statistics
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.table import Table

from lmtrain.bench.config import BenchConfig, BenchDevice
from lmtrain.bench.memory import memory_meter
from lmtrain.bench.record import write_record
from lmtrain.config import require

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from torch import Tensor

    from lmtrain.bench.contenders import Contender

MEBI = 2**20


@dataclass(frozen=True)
class Measurement:
    """What one contender did at one length."""

    contender: str
    parameters: int
    length: int
    tokens: int
    """Tokens of a step."""
    seconds: list[float]
    """Every timed step: forward, loss and backward."""
    memory: int
    """Bytes that the steps needed beyond the process with its model, gradients included."""

    @property
    def tokens_per_second(self) -> float:
        """Speed of the median step."""
        return self.tokens / statistics.median(self.seconds)


def bench(config: BenchConfig) -> list[Measurement]:
    """Measure, print a table, and write ``config.out`` when it is set.

    Raises:
        ValueError: the configuration has problems, or transformers is not installed.
    """
    from lmtrain.bench.contenders import model_config

    require([*config.check(), *model_config(config.pattern).check(), *_missing(config)])
    console = Console()
    with console.status(f"measuring at lengths {config.lengths}"):
        measurements = [m for length in config.lengths for m in _at(length, config)]
    console.print(_table(measurements, config))
    write_record(config, [asdict(m) for m in measurements])
    return measurements


def _missing(config: BenchConfig) -> list[str]:
    if not config.peers or find_spec("transformers"):
        return []
    return [
        "peers=true compares with transformers, which is missing: pip install 'lmtrain[hf]' or say "
        "peers=false"
    ]


def _at(length: int, config: BenchConfig) -> list[Measurement]:
    from lmtrain.bench.contenders import builders

    with ExitStack() as stack:
        workers = [stack.enter_context(_Worker(n, length, config)) for n in builders(config)]
        for worker in workers:
            for _ in range(config.warm_up):
                worker.step()
        times: list[list[float]] = [[] for _ in workers]
        for turn in range(config.repeats):
            for i in range(len(workers)):
                at = (i + turn) % len(workers)
                times[at].append(workers[at].step())
        return [worker.finish(seconds) for worker, seconds in zip(workers, times, strict=True)]


class _Worker:
    """A process that holds one contender and steps when told to."""

    def __init__(self, name: str, length: int, config: BenchConfig) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, self._theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._theirs, name, length, config))
        self._name, self._length, self._tokens = name, length, max(config.lengths)

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()  # so that a dead process ends the pipe
        self._parameters = self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def step(self) -> float:
        """Seconds of one more step."""
        self._pipe.send("step")
        return self._answer()

    def finish(self, seconds: list[float]) -> Measurement:
        """The measurement, once all steps are done."""
        self._pipe.send("memory")
        return Measurement(
            contender=self._name,
            parameters=self._parameters,
            length=self._length,
            tokens=self._tokens,
            seconds=seconds,
            memory=self._answer(),
        )

    def _answer(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"the process of {self._name} died; its error is above") from None


def _serve(pipe: Connection, name: str, length: int, config: BenchConfig) -> None:
    """Build a contender; then answer ``step`` with seconds and ``memory`` with bytes."""
    import torch

    from lmtrain.bench.contenders import VOCABULARY, builders

    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    contender = builders(config)[name]()
    contender.model.to(config.device)
    shape = (max(config.lengths) // length, length + 1)
    tokens = torch.randint(VOCABULARY, shape, device=config.device)
    memory = memory_meter(config.device)
    pipe.send(contender.parameters)
    with suppress(EOFError):  # the benchmark is over, or was interrupted
        while True:
            match pipe.recv():
                case "step":
                    pipe.send(_step(contender, tokens, config.device))
                case "memory":
                    pipe.send(memory())


def _step(contender: Contender, tokens: Tensor, device: BenchDevice) -> float:
    import torch

    started = perf_counter()
    contender.loss(tokens).backward()
    if device is BenchDevice.cuda:
        torch.cuda.synchronize()
    seconds = perf_counter() - started
    contender.model.zero_grad()
    return seconds


def _table(measurements: list[Measurement], config: BenchConfig) -> Table:
    precision = "fp32" if config.device is BenchDevice.cpu else "bf16"
    table = Table(title=f"A training step of {max(config.lengths)} tokens, {precision}")
    table.add_column("model", no_wrap=True)
    for heading in ("size", "length", "tokens/s", "ours is", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for length in config.lengths:
        rows = [m for m in measurements if m.length == length]
        for row in rows:
            table.add_row(
                row.contender,
                f"{row.parameters / 1e6:.2f} M",
                str(length),
                f"{row.tokens_per_second:,.0f}",
                ""
                if row is rows[0]
                else f"{rows[0].tokens_per_second / row.tokens_per_second:.2f} ×",
                f"{row.memory / MEBI:,.0f} MiB",
            )
        table.add_section()
    return table
