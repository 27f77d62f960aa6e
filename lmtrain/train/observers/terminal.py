"""A run for the person at the terminal: a live view, or plain lines where output is kept."""

from __future__ import annotations

import sys
from datetime import timedelta
from time import perf_counter
from typing import TYPE_CHECKING

from rich.console import Console

from lmtrain.train.observers.live import Live, named_loss
from lmtrain.train.report import FaultReport, StartReport, StepReport, ValidationReport

if TYPE_CHECKING:
    from lmtrain.train.report import Report

PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: 0x2421}
"""Signs for control characters, with which a sample could otherwise command the terminal."""


def terminal(every: int, *, first_step: int, steps: int) -> Plain | Live:
    """What suits this output: `Live` on a terminal, `Plain` in a file or a pipe.

    Args:
        every: steps between plain lines.
        first_step: updates already made.
        steps: of the whole run.
    """
    console, clock = Console(file=sys.stdout), Clock(first_step, steps)
    if console.is_terminal and not console.is_dumb_terminal:
        return Live(console, clock, steps=steps, line=line)
    return Plain(every, clock, first_step=first_step, steps=steps)


class Clock:
    """How long a run still takes, by the mean time of its steps so far."""

    def __init__(self, first_step: int, steps: int) -> None:
        self._first, self._steps, self._started = first_step, steps, perf_counter()

    def remaining(self, step: int) -> timedelta:
        """After ``step`` updates, at least one of them made here."""
        each = (perf_counter() - self._started) / (step - self._first)
        return timedelta(seconds=round(each * (self._steps - step)))


class Plain:
    """A line every few steps."""

    def __init__(self, every: int, clock: Clock, *, first_step: int, steps: int) -> None:
        self._every, self._clock, self._first, self._steps = every, clock, first_step, steps

    def __call__(self, report: Report) -> None:
        """Print it, if its turn has come."""
        if not isinstance(report, StepReport):
            if said := line(report):
                print(said, flush=True)
        elif report.step % self._every == 0 or report.step in (self._first + 1, self._steps):
            print(
                f"step {report.step}/{self._steps}  loss {named_loss(report)}  "
                f"length {report.length}  {report.tokens_per_second:,.0f} tokens/s  "
                f"ETA {self._clock.remaining(report.step)}",
                flush=True,
            )

    def close(self) -> None:
        """Every line is out already."""


def line(report: Report) -> str:
    """What a report other than that of a step says to a person; empty for none."""
    match report:
        case str():
            return report.translate(PICTURES)
        case StartReport():
            size, processes = report.parameters, report.processes
            several = f" {processes} processes," if processes > 1 else ""
            return f"{size:,} parameters,{several} {report.device}, torch {report.torch}"
        case ValidationReport():
            return _validation(report)
        case FaultReport():
            back = f", back to step {report.back}" if report.back < report.step else ""
            return f"step {report.step}  left out: {report.fault}{back}"
        case _:
            return ""


def _validation(report: ValidationReport) -> str:
    lengths = "  ".join(f"{n}: {loss:.3f}" for n, loss in report.val_loss_by_length.items())
    size = report.val_bits_per_byte
    text = "" if size is None else f"  {size:.3f} bits per byte"
    line = f"step {report.step}  validation loss {report.val_loss:.3f}{text}  by length  {lengths}"
    sources = "  ".join(f"{n}: {loss:.3f}" for n, loss in report.val_loss_by_source.items())
    return f"{line}  by source  {sources}" if sources else line
