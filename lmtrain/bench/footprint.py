"""Bytes and seconds of a training step, beside what `lmtrain inspect` predicts of them.

Bytes are the allocator's own: torch's profiler hears of every allocation on a CPU, and CUDA keeps
its high-water mark. The process itself (its code, the allocator's reserve) is left out. Seconds of
one thread are the processor's, so that what else runs does not count.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate, product
from time import process_time
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.autograd.profiler import profile, record_function

from lmtrain.batch import Batch
from lmtrain.bench.config import BenchConfig, BenchDevice
from lmtrain.bench.record import write_record
from lmtrain.bench.world import now
from lmtrain.config import InspectConfig, compose, require
from lmtrain.inspect import case_of
from lmtrain.inspect.memory import busiest
from lmtrain.inspect.time import step_time
from lmtrain.layout import SequenceLayout
from lmtrain.settings.engine import Remat
from lmtrain.train.birth import birth
from lmtrain.train.engines import LocalEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from lmtrain.inspect.case import Case

VOCABULARY = 4096
NOTE = "errors: of the state, of what a step adds, of its seconds"
STEP = "lmtrain step"
"""The step whose bytes are counted."""


@dataclass(frozen=True)
class Measured:
    """One model on rows of one length."""

    preset: str
    remat: str
    length: int
    state: int
    """Bytes between two steps: parameters and the optimizer's."""
    state_predicted: int
    peak: int
    """Bytes at the busiest moment of a step."""
    peak_predicted: int
    moment: str
    """Where the prediction finds it."""
    seconds: list[float]
    """Every timed step."""
    seconds_predicted: float

    @property
    def errors(self) -> tuple[float, float, float]:
        """Predicted over measured, less one: of what is held, of what a step adds, of its time."""
        added, predicted = self.peak - self.state, self.peak_predicted - self.state_predicted
        time = statistics.median(self.seconds)
        return (
            self.state_predicted / self.state - 1,
            predicted / added - 1,
            self.seconds_predicted / time - 1,
        )


def bench_memory(config: BenchConfig) -> list[Measured]:
    """Measure, print a table, and write ``config.out``, if it is set, after every model.

    Raises:
        ValueError: the configuration has problems.
        RuntimeError: every model fails, for want of memory; where some do, it is told and written.
    """
    require(config.check())
    if config.threads:
        torch.set_num_threads(config.threads)
    modes = (Remat.none, Remat.selective, Remat.full)
    console, found, failures = Console(), list[Measured](), list[str]()
    hardware = "auto" if config.device is BenchDevice.cuda else "cpu"
    with console.status("measuring"):
        for preset, length, remat in product(config.presets, config.lengths, modes):
            planned = compose(overrides(config, preset, length, remat, hardware), "inspect")
            try:
                found.append(measure(planned, preset, config))
            except RuntimeError as error:  # no room for it: others may be smaller
                failures.append(f"{preset}, remat={remat}, {length} tokens: {error}")
            results = [{**asdict(one), "errors": one.errors} for one in found]
            write_record(config, results, [NOTE, *failures])
    if not found:
        raise RuntimeError(failures[0])
    console.print(_table(found))
    for reason in failures:
        console.print(f"not measured, {reason}", highlight=False, soft_wrap=True)
    return found


def overrides(
    config: BenchConfig, preset: str, length: int, remat: Remat, hardware: str = "cpu"
) -> list[str]:
    """One document a step, in fp32 on a CPU and bf16 on a card."""
    precision = "bf16" if config.device is BenchDevice.cuda else "fp32"
    return [
        *(f"model={preset}", f"model/size={config.size}", f"model.vocab_size={VOCABULARY}"),
        *(f"curriculum.max_length={length}", f"train.tokens_per_step={length}"),
        *(f"engine.remat={remat}", f"engine.precision={precision}"),
        *(f"engine.device={config.device}", f"hardware={hardware}"),
        f"launch.threads={config.threads or 'null'}",
        *(f"curriculum.min_length={min(length, 64)}", f"ops.backend={config.ops.backend}"),
    ]


def measure(planned: InspectConfig, preset: str, config: BenchConfig) -> Measured:
    """Two steps under the eye of the allocator, then some under the clock."""
    case = case_of(planned)
    engine = LocalEngine(planned.engine)
    meter = _on_card if engine.device.type == "cuda" else _on_host
    run, peak = meter(case, engine)
    clock = process_time if config.threads == 1 else partial(now, engine.device)
    seconds = [_timed(run.step, clock) for _ in range(config.repeats)]
    predicted, time = busiest(case), step_time(case)
    return Measured(
        *(preset, str(planned.engine.remat), case.length),
        state=run.state(),
        state_predicted=predicted.parameters + predicted.optimizer,
        peak=peak,
        peak_predicted=predicted.total,
        moment=predicted.moment,
        seconds=seconds,
        seconds_predicted=time.total,
    )


class _Run(NamedTuple):
    """A born model in training."""

    step: Callable[[], None]
    state: Callable[[], int]
    """Bytes of its parameters, and of the optimizer's state."""


def _begin(case: Case, engine: LocalEngine) -> _Run:
    """A model, its optimizer, and a batch that it meets in every step."""
    model, optimizer = birth(case.config, engine)
    vocabulary = case.config.model.vocab_size or VOCABULARY
    tokens = torch.randint(vocabulary, (case.row + 1,), device=engine.device)
    layout = SequenceLayout.whole(range(0, case.row + 1, case.length)).to(engine.device)
    batch = Batch(tokens[:-1], tokens[1:], layout)

    def step() -> None:
        engine.backward(engine.forward(model, batch).total / case.row)
        engine.step(optimizer, lr=1e-4, clip=1.0)

    def state() -> int:
        kept = [x for of in optimizer.state.values() for x in of.values() if isinstance(x, Tensor)]
        tensors = {x.untyped_storage().data_ptr(): x for x in (*model.parameters(), *kept)}
        return sum(x.untyped_storage().nbytes() for x in tensors.values())

    return _Run(step, state)


def _on_card(case: Case, engine: LocalEngine) -> tuple[_Run, int]:
    """A run, and the bytes at the peak of its second step."""
    before = torch.cuda.memory_allocated()
    run = _begin(case, engine)
    run.step()
    torch.cuda.reset_peak_memory_stats()
    run.step()
    return run, torch.cuda.max_memory_allocated() - before


def _on_host(case: Case, engine: LocalEngine) -> tuple[_Run, int]:
    """The same, from every allocation since before the birth."""
    heard = profile(profile_memory=True)
    with heard:
        run = _begin(case, engine)
        run.step()
        with record_function(STEP):
            run.step()
    assert heard.kineto_results is not None
    events: list[Any] = heard.kineto_results.events()
    [started] = [event.start_ns() for event in events if event.name() == STEP]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = accumulate((size for _, size in changes))
    return run, max(now for (when, _), now in zip(changes, held, strict=True) if when >= started)


def _timed(step: Callable[[], None], clock: Callable[[], float]) -> float:
    started = clock()
    step()
    return clock() - started


def _table(found: list[Measured]) -> Table:
    table = Table(title="A training step, predicted against measured", padding=0)
    for heading in ("model", "remat"):
        table.add_column(heading, no_wrap=True)
    for heading in ("tokens", "state\nMiB", "error", "a step\nadds", "error", "ms", "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in found:
        state, added, time = one.errors
        table.add_row(
            *(one.preset, one.remat, f"{one.length:,}"),
            *(f"{one.state / 2**20:,.4g}", f"{state:+.1%}"),
            *(f"{(one.peak - one.state) / 2**20:,.4g}", f"{added:+.1%}"),
            *(f"{1e3 * statistics.median(one.seconds):,.4g}", f"{time:+.0%}"),
        )
    return table
