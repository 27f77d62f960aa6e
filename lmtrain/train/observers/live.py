"""The live view: one panel that is drawn over at most four times a second."""

from __future__ import annotations

from collections import deque
from math import isfinite
from statistics import fmean
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from rich import live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lmtrain.train.report import StepReport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from rich.console import Console, RenderableType

    from lmtrain.train.report import Report

REFRESH = 0.25
"""Seconds between two drawings, at least."""
RECENT = 32
"""Steps in the sparkline and in the mean."""
BARS = "▁▂▃▄▅▆▇█"


class Remaining(Protocol):
    """Knows how long a run still takes."""

    def remaining(self, step: int, /) -> timedelta:
        """After ``step`` updates."""
        ...


class Live:
    """Progress, loss, speed and memory in place.

    What else is said scrolls away above them, and stands below them once the last step is done.
    The thread that trains draws between steps, and no other thread does: so a drawing neither tears
    a traceback nor takes time from a step that it does not follow.
    """

    def __init__(
        self, console: Console, clock: Remaining, *, steps: int, line: Callable[[Report], str]
    ) -> None:
        self._console, self._clock, self._steps, self._line = console, clock, steps, line
        self._losses, self._stage = deque[float](maxlen=RECENT), ""
        self._drawn = -REFRESH
        self._live = live.Live(console=console, auto_refresh=False)
        self._live.start()

    def __call__(self, report: Report) -> None:
        """Draw the step, if the last drawing is old enough; print anything else above."""
        if isinstance(report, StepReport):
            if report.stage != self._stage:
                self._losses.clear()  # those of another kind
            self._stage = report.stage
            self._losses.append(report.loss)
            if report.step == self._steps or perf_counter() - self._drawn >= REFRESH:
                left = self._clock.remaining(report.step)
                panel = draw(report, list(self._losses), steps=self._steps, left=left)
                self._live.update(panel, refresh=True)
                self._drawn = perf_counter()
            if report.step == self._steps:
                self._live.stop()  # what is said of the finished run stands below
        elif said := self._line(report):
            self._console.print(said, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the last view where it is and give the terminal back."""
        self._live.stop()


def draw(
    report: StepReport, losses: Sequence[float], *, steps: int, left: timedelta
) -> RenderableType:
    """The view of a step.

    Args:
        report: of the step.
        losses: of the latest steps, in order.
        steps: of the whole run.
        left: time to its end.
    """
    done = f"step {report.step:,} of {steps:,}, {report.step / steps:.0%}, {left} left"
    rows: list[tuple[str, RenderableType]] = [
        ("run", ProgressBar(total=steps, completed=report.step, width=40)),
        ("", Text(done)),
        ("loss", Text(f"{named_loss(report)}  {sparkline(losses)}  {fmean(losses):.3f} of late")),
        ("batch", Text(_batch(report))),
        ("speed", Text(_speed(report))),
        ("memory", Text(_bytes(report.memory) + _sent(report))),
    ]
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="dim"), value)
    return table


def named_loss(report: StepReport) -> str:
    """The loss of a step, and in a run with a teacher what it is."""
    return f"{report.loss:.3f} ({report.stage})" if report.stage else f"{report.loss:.3f}"


def sparkline(values: Sequence[float]) -> str:
    """Bars from the least of ``values`` to the largest; a NaN is a gap."""
    finite = [value for value in values if isfinite(value)]
    if not finite:
        return " " * len(values)
    least, most = min(finite), max(finite)
    scale = (len(BARS) - 1) / (most - least) if most > least else 0.0
    return "".join(
        BARS[round((value - least) * scale)] if isfinite(value) else " " for value in values
    )


def _batch(report: StepReport) -> str:
    return (
        f"length {report.length:,}  lr {report.lr:.2e}  gradient {report.grad_norm:.2f}  "
        f"{report.tokens:,} tokens so far"
    )


def _speed(report: StepReport) -> str:
    used = "" if report.mfu is None else f"  MFU {report.mfu:.1%}"
    return f"{report.tokens_per_second:,.0f} tokens/s{used}  data wait {report.data_wait:.3f} s"


def _sent(report: StepReport) -> str:
    return f"  {_bytes(report.sp_bytes)} sent a step" if report.sp_bytes else ""


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:  # noqa: PLR2004
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
