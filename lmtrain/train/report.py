"""What a run tells, and who listens. Observers get reports, return nothing, and change nothing."""

from __future__ import annotations

import json
import os
import resource
import sys
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from lmtrain.config import RunConfig, flat
from lmtrain.settings.engine import Precision

if TYPE_CHECKING:
    from lmtrain.settings.logging import LoggingSection

PEAK_FLOPS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "GB200": 2500e12,
}
"""Dense bf16 FLOP/s by a part of the device's name; the longest part that fits decides."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One optimizer update. Times are seconds, losses nats per target, memory bytes."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    """Targets learned since step 0."""
    length: int
    """Tokens of a piece in this batch."""
    tokens_per_second: float
    mfu: float | None
    """Model FLOP/s over the device's peak; None when the peak is unknown."""
    data_wait: float
    sp_bytes: int
    """What processes that share rows sent each other, all together."""
    memory: int
    """Peak of the device's memory, or of the process on a CPU."""
    sources: dict[str, float] = field(default_factory=dict[str, float])
    """Part of each source in the tokens since the plan began; left out where there is only one."""


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """The loss on documents that are never trained on."""

    step: int
    val_loss: float
    val_bits_per_byte: float | None
    """None when the tokenizer does not say how many bytes its tokens stand for."""
    val_loss_by_length: dict[str, float]
    val_loss_by_source: dict[str, float] = field(default_factory=dict[str, float])
    """By names of sources and of other validation data; left out where there is only one."""


Report = StepReport | ValidationReport | str
"""What observers hear; a string is a line for a person."""


def values(report: StepReport | ValidationReport) -> dict[str, Any]:
    """What a report says, by name."""
    return {name: value for name, value in asdict(report).items() if value != {}}


class Observer(Protocol):
    """Someone who listens to a run; only rank 0 has any."""

    def __call__(self, report: Report) -> None:
        """Hear a report."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class Metrics:
    """Appends every report as a line of JSON to ``metrics.jsonl``."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def __call__(self, report: Report) -> None:
        """Write it; lines for a person are left out."""
        if not isinstance(report, str):
            self._file.write(json.dumps(values(report)) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Terminal:
    """A progress bar, or a plain line every few steps when the output is not a terminal."""

    def __init__(self, logging: LoggingSection, *, first_step: int, steps: int) -> None:
        self._every, self._first, self._steps = logging.every, first_step, steps
        self._started = perf_counter()
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        self._bar = Progress(*columns, console=Console(file=sys.stdout))
        self._plain = not self._bar.console.is_terminal
        self._task = self._bar.add_task("", total=steps, completed=first_step)
        if not self._plain:
            self._bar.start()

    def __call__(self, report: Report) -> None:
        """Move the bar or print a line."""
        match report:
            case StepReport():
                self._step(report)
            case ValidationReport():
                self._print(_validation_line(report))
            case str():
                self._print(report)

    def close(self) -> None:
        """Leave the bar as it is."""
        if not self._plain:
            self._bar.stop()

    def _step(self, report: StepReport) -> None:
        line = (
            f"step {report.step}/{self._steps}  loss {report.loss:.3f}  length {report.length}  "
            f"{report.tokens_per_second:,.0f} tokens/s  ETA {self._remaining(report.step)}"
        )
        if not self._plain:
            self._bar.update(self._task, completed=report.step, description=line)
        elif report.step % self._every == 0 or report.step in (self._first + 1, self._steps):
            self._print(line)

    def _print(self, line: str) -> None:
        if self._plain:
            print(line, flush=True)
        else:
            self._bar.console.print(line, markup=False, highlight=False)

    def _remaining(self, step: int) -> timedelta:
        each = (perf_counter() - self._started) / (step - self._first)
        return timedelta(seconds=round(each * (self._steps - step)))


def _validation_line(report: ValidationReport) -> str:
    lengths = "  ".join(f"{n}: {loss:.3f}" for n, loss in report.val_loss_by_length.items())
    size = report.val_bits_per_byte
    text = "" if size is None else f"  {size:.3f} bits per byte"
    line = f"step {report.step}  validation loss {report.val_loss:.3f}{text}  by length  {lengths}"
    sources = "  ".join(f"{n}: {loss:.3f}" for n, loss in report.val_loss_by_source.items())
    return f"{line}  by source  {sources}" if sources else line


class Wandb:
    """Sends the reports to Weights & Biases; a continued run continues there too."""

    def __init__(self, config: RunConfig) -> None:
        import wandb

        folder = Path(config.run.dir, "wandb")
        folder.mkdir(exist_ok=True)
        identity = folder / "id"
        if not identity.exists():
            identity.write_text(os.urandom(4).hex())
        self._run = wandb.init(
            project=config.logging.wandb_project,
            name=config.run.dir,
            dir=config.run.dir,
            mode=config.logging.wandb_mode.value,
            id=identity.read_text(),
            resume="allow",
            config=flat(config),
        )

    def __call__(self, report: Report) -> None:
        """Log its values; lines for a person are left out."""
        if not isinstance(report, str):
            self._run.log(values(report), step=report.step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class Everyone:
    """Passes every report on to several observers; to none on the other ranks."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def __call__(self, report: Report) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer(report)

    def close(self) -> None:
        """Close them in turn."""
        for observer in self._observers:
            observer.close()


def observers(config: RunConfig, *, rank: int, first_step: int) -> Everyone:
    """Those who listen to this run."""
    if rank:
        return Everyone()
    return Everyone(
        Metrics(Path(config.run.dir, "metrics.jsonl")),
        Terminal(config.logging, first_step=first_step, steps=config.train.steps),
        *([Wandb(config)] if config.logging.wandb else []),
    )


def peak_flops(device: torch.device, precision: Precision) -> float | None:
    """Dense FLOP/s of a device in bf16; None in fp32, and when it is not in the table."""
    if device.type != "cuda" or precision is not Precision.bf16:
        return None
    name = torch.cuda.get_device_name(device)
    fitting = [part for part in PEAK_FLOPS if part in name]
    return PEAK_FLOPS[max(fitting, key=len)] if fitting else None


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: on the GPU, or by the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
