"""One training step of models of one size, or of one model by several backends, taking turns.

Every model lives in a process of its own, so that its memory is its own; the processes work one
after the other, in an order that rotates, so that noise of the machine meets all of them.
"""

from __future__ import annotations

import multiprocessing
import statistics
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from rich.console import Console
from rich.table import Table

from lmtrain.bench.config import BenchConfig, BenchDevice, Floor
from lmtrain.bench.memory import memory_meter
from lmtrain.bench.record import write_record
from lmtrain.config import require
from lmtrain.extras import needed

if TYPE_CHECKING:
    from collections.abc import Iterator
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
    cpu_seconds: list[float]
    """Processor time of the same: all there is on a CPU that other work keeps busy too."""
    memory: int
    """Bytes that the steps needed beyond the process with its model, gradients included."""
    mfu: float | None = None
    """Of the median step, for ours on a card whose peak is known."""

    @property
    def tokens_per_second(self) -> float:
        """Speed of the median step."""
        return self.tokens / statistics.median(self.seconds)

    @property
    def is_floor(self) -> bool:
        """Whether it is a part of ours, and no peer."""
        return self.contender in list(Floor)


def bench(config: BenchConfig) -> list[Measurement]:
    """Measure, print a table, and write ``config.out``, if it is set, after every length.

    Raises:
        ValueError: the configuration has problems, or transformers is not there, or too old.
        RuntimeError: ours fails; where another one does, the reason is printed and written.
    """
    from lmtrain.bench.contenders import builders, problems

    require(config.check())
    require(problems(config))
    if config.peers and not config.sized:
        needed("transformers", otherwise="peers=false")
    console, measurements, failures = Console(), list[Measurement](), dict[str, str]()
    names = list(builders(config))
    with console.status(f"measuring at lengths {config.lengths}"):
        for length in config.lengths:
            measurements += _at(length, [n for n in names if n not in failures], config, failures)
            write_record(config, [asdict(m) for m in measurements], list(failures.values()))
    console.print(_table(measurements, config, ours=names[0]))
    compared = {m.length for m in measurements if m.contender == names[0]}
    for line in headroom([m for m in measurements if m.length in compared]):
        console.print(line, highlight=False, soft_wrap=True)
    for reason in failures.values():
        console.print(f"not measured, {reason}", highlight=False, soft_wrap=True)
    if names[0] in failures:
        raise RuntimeError(failures[names[0]])
    return measurements


def _at(
    length: int, names: list[str], config: BenchConfig, failures: dict[str, str]
) -> list[Measurement]:
    """Those of all contenders that can do it; why the others cannot goes into ``failures``."""
    with ExitStack() as stack:
        workers = dict[str, _Worker]()
        for name in names:
            with _told(name, length, failures):
                worker = stack.enter_context(_Worker(name, length, config))
                for _ in range(config.warm_up):
                    worker.step()
                workers[name] = worker
        times: dict[str, list[_Times]] = {name: [] for name in workers}
        for turn in range(config.repeats):
            at = turn % max(1, len(workers))
            for name in [*workers][at:] + [*workers][:at]:
                if name not in failures:
                    with _told(name, length, failures):
                        times[name].append(workers[name].step())
        found = list[Measurement]()
        for name, worker in workers.items():
            if name not in failures:
                with _told(name, length, failures):
                    found.append(worker.finish(times[name]))
        return found


@contextmanager
def _told(name: str, length: int, failures: dict[str, str]) -> Iterator[None]:
    """What a contender does; where it fails, why goes into ``failures``."""
    try:
        yield
    except RuntimeError as error:
        failures[name] = f"{length} tokens: {error}"


class _Times(NamedTuple):
    """Seconds of a step."""

    wall: float
    cpu: float


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
        try:
            self._parameters, self._flops, self._peak = self._answer()
        except RuntimeError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def step(self) -> _Times:
        """One more step."""
        return self._answer("step")

    def finish(self, steps: list[_Times]) -> Measurement:
        """The measurement, once all steps are done."""
        seconds = [step.wall for step in steps]
        speed = self._tokens / statistics.median(seconds)
        return Measurement(
            contender=self._name,
            parameters=self._parameters,
            length=self._length,
            tokens=self._tokens,
            seconds=seconds,
            cpu_seconds=[step.cpu for step in steps],
            memory=self._answer("memory"),
            mfu=self._flops * speed / self._peak if self._flops and self._peak else None,
        )

    def _answer(self, asked: str | None = None) -> Any:
        """What the process says next, or to what it is asked."""
        try:
            if asked:
                self._pipe.send(asked)
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise RuntimeError(f"the process of {self._name} died; its error is above") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(pipe: Connection, name: str, length: int, config: BenchConfig) -> None:
    """Build a contender; then answer ``step`` with seconds and ``memory`` with bytes."""
    try:
        _answer(pipe, name, length, config)
    except Exception as error:  # it is a result as well
        pipe.send(RuntimeError(f"{name}: {type(error).__name__}: {error}"))


def _answer(pipe: Connection, name: str, length: int, config: BenchConfig) -> None:
    import torch

    from lmtrain.bench.contenders import VOCABULARY, builders
    from lmtrain.settings.engine import Precision
    from lmtrain.train.device import peak_flops

    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    contender, device = builders(config)[name](), torch.device(config.device)
    contender.model.to(device)
    shape = (max(config.lengths) // length, length + 1)
    tokens = torch.randint(VOCABULARY, shape, device=device)
    memory, cost = memory_meter(config.device), contender.cost
    flops = None if cost is None else cost.training_flops_per_token([length])
    pipe.send((contender.parameters, flops, peak_flops(device, Precision.bf16)))
    with suppress(EOFError):  # the benchmark is over, or was interrupted
        while True:
            match pipe.recv():
                case "step":
                    pipe.send(_step(contender, tokens, config.device))
                case "memory":
                    pipe.send(memory())


def _step(contender: Contender, tokens: Tensor, device: BenchDevice) -> _Times:
    import torch

    started, worked = perf_counter(), process_time()
    contender.loss(tokens).backward()
    if device is BenchDevice.cuda:
        torch.cuda.synchronize()
    times = _Times(perf_counter() - started, process_time() - worked)
    contender.model.zero_grad()
    return times


def _table(measurements: list[Measurement], config: BenchConfig, *, ours: str) -> Table:
    precision = "fp32" if config.device is BenchDevice.cpu else "bf16"
    table = Table(title=f"A training step of {max(config.lengths)} tokens, {precision}")
    table.add_column("model")
    last = "by CPU time" if config.device is BenchDevice.cpu else "MFU"
    for heading in ("size", "length", "tokens/s", "ours is", "memory", last):
        table.add_column(heading, justify="right", no_wrap=True)
    for length in config.lengths:
        rows = [m for m in measurements if m.length == length]
        base = next((row for row in rows if row.contender == ours), None)
        for row in rows:
            others = None if row is base else base
            compared = _share if row.is_floor else _ratio
            found = compared(others.cpu_seconds, row.cpu_seconds) if others else ""
            if config.device is not BenchDevice.cpu:
                found = "" if row.mfu is None else f"{row.mfu:.1%}"
            table.add_row(
                row.contender,
                f"{row.parameters / 1e6:.2f} M",
                str(length),
                f"{row.tokens_per_second:,.0f}",
                compared(others.seconds, row.seconds) if others else "",
                f"{row.memory / MEBI:,.0f} MiB",
                found,
            )
        table.add_section()
    return table


def _ratio(ours: list[float], theirs: list[float]) -> str:
    """How many times as fast the median step of ours is."""
    return f"{statistics.median(theirs) / statistics.median(ours):.2f} ×"


def _share(ours: list[float], floor: list[float]) -> str:
    """How much of its speed ours has."""
    return f"{statistics.median(floor) / statistics.median(ours):.0%} of it"


def headroom(measurements: list[Measurement]) -> list[str]:
    """How many times as fast as each peer a step would be that only did a floor, a line each."""
    lines: list[str] = []
    for floor in (m for m in measurements if m.is_floor):
        ours, *others = (m for m in measurements if m.length == floor.length)
        ratios = [
            f"{_ratio(floor.seconds, peer.seconds)} {peer.contender} "
            f"(ours is {_ratio(ours.seconds, peer.seconds)})"
            for peer in others
            if not peer.is_floor
        ]
        if ratios:
            lines.append(f"{floor.contender} at {floor.length}: {', '.join(ratios)}")
    return lines
