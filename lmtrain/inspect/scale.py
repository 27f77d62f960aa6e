"""How a run would scale: the predicted step on more and more processes, as a table and a plot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from lmtrain.inspect.memory import busiest
from lmtrain.inspect.model import short, size
from lmtrain.inspect.time import step_time

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lmtrain.inspect.case import Case

ASSUMED = """\
Assumed: every process has an equal part of the work; a message takes latency + bytes / speed, \
gathers and sums go in rings, one after the other; gathering hides behind the block before it \
and sums behind the backward pass; data, checkpoints, stragglers and failures cost nothing. Strong \
scaling cuts one global batch into more rows and ends where a row would be shorter than a \
document; weak scaling adds rows."""


@dataclass(frozen=True)
class Point:
    """One number of processes."""

    world: int
    speed: float
    """Tokens a second, of all."""
    memory: int
    """Bytes of a rank."""


def weak(case: Case, worlds: list[int]) -> list[Point]:
    """As many tokens for each process, whatever their number."""
    parts = case.rows * case.config.train.accumulate
    row = case.config.train.tokens_per_step // parts
    cases = []
    for world in worlds:
        rows = world // case.config.parallel.sequence * case.config.train.accumulate
        cases.append(case.but({"train.tokens_per_step": max(1, rows) * row}, world=world))
    return _points(cases)


def strong(case: Case, worlds: list[int]) -> list[Point]:
    """As many tokens in all."""
    return _points([case.but(world=world) for world in worlds])


def tell(case: Case, worlds: list[int], out: str) -> list[RenderableType]:
    """A table, what it assumes, and where the plot is.

    Raises:
        ValueError: no number of processes divides into rows of whole documents.
    """
    curves = {"weak": weak(case, worlds), "strong": strong(case, worlds)}
    if not any(curves.values()):
        raise ValueError(
            f"scale={worlds[0]}..{worlds[-1]} has no number of processes that divides into rows "
            f"of parallel.sequence={case.config.parallel.sequence}: raise its end"
        )
    draw(curves, case, Path(out))
    return [_table(curves), ASSUMED, f"The plot is in {out}."]


def efficiency(points: list[Point]) -> list[float]:
    """Speed a process, over that of the fewest processes."""
    first = points[0]
    return [point.speed / point.world * first.world / first.speed for point in points]


def draw(curves: dict[str, list[Point]], case: Case, path: Path) -> None:
    """Speed and efficiency over processes, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    speed, share = figure.subplots(1, 2)
    for (name, points), style in zip(curves.items(), ("o-", "s--"), strict=True):
        if not points:
            continue
        worlds = [point.world for point in points]
        speed.loglog(worlds, [point.speed for point in points], style, label=f"{name} scaling")
        share.semilogx(
            worlds, [100 * e for e in efficiency(points)], style, label=f"{name} scaling"
        )
    for axes, label in ((speed, "tokens/s"), (share, "efficiency, %")):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("processes")
        axes.set_ylabel(label)
        axes.grid(visible=True, alpha=0.3)
    share.set_ylim(0, 105)
    speed.legend()
    figure.suptitle(f"Predicted: {case.config.model.name} on {case.hardware.name}", fontsize=10)
    figure.savefig(path, dpi=120)


def _points(cases: list[Case]) -> list[Point]:
    """Of those numbers of processes that divide into rows of whole documents."""
    fitting = [c for c in cases if c.possible and not c.config.engine.holding(c.world)]
    return [
        Point(c.world, c.config.train.tokens_per_step / step_time(c).total, busiest(c).total)
        for c in fitting
    ]


def _table(curves: dict[str, list[Point]]) -> Table:
    rows = Table(title="Scaling, predicted")
    rows.add_column("ranks", justify="right", no_wrap=True)
    for name in curves:
        for heading in ("tokens/s", "of ideal", "memory"):
            rows.add_column(f"{name}\n{heading}", justify="right", no_wrap=True)
    cells = {
        name: {
            point.world: (short(point.speed), f"{share:.0%}", size(point.memory))
            for point, share in zip(points, efficiency(points), strict=True)
        }
        for name, points in curves.items()
        if points
    }
    for world in sorted({world for of in cells.values() for world in of}):
        row = [cell for of in cells.values() for cell in of.get(world, ("", "", ""))]
        rows.add_row(f"{world:,}", *row)
    return rows
