"""What became of the points of a sweep, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from lmtrain.report.measures import number
from lmtrain.report.points import points

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from lmtrain.report.points import Point as Done
    from lmtrain.sweep.points import Point

SCORES = ("answers@", "text_loss@")
"""Measures that stand beside the loss, at their longest length."""


def print_points(folder: Path, asked: Sequence[Point]) -> int:
    """A line for each point, the failures with their sentences, and what to do next.

    Returns:
        How many failed.
    """
    done = {point.run.folder.name: point for point in points(folder)}
    numbers = ["loss", *_score(done.values())]
    table = Table()
    for heading in asked[0].values:
        table.add_column(heading.rpartition(".")[2])
    for heading in ("state", "steps", *numbers):
        table.add_column(heading, justify="left" if heading == "state" else "right")
    found = [done.get(point.name) for point in asked]
    for point, run in zip(asked, found, strict=True):
        table.add_row(*point.values.values(), *(_cells(run, numbers) if run else ["not begun"]))
    console = Console(highlight=False, markup=False)
    console.print()
    console.print(table)
    failed = [run for run in found if run and run.error]
    for run in failed:
        console.print(f"{run.run.folder.name}: {run.error}", soft_wrap=True)
    finished = sum(run.finished for run in found if run)
    console.print(f"{finished} of {len(asked)} points finished, {len(failed)} failed", end="")
    console.print("" if finished == len(asked) else ": the same command runs the others")
    console.print(f"report: lmtrain report run={folder}", soft_wrap=True)
    return len(failed)


def _cells(done: Done, numbers: Sequence[str]) -> list[str]:
    """How it ended, how far it came, and what was measured."""
    measures = (done.measures.get(name) for name in numbers)
    return [done.state, str(done.run.step), *("" if m is None else number(m) for m in measures)]


def _score(done: Collection[Done]) -> list[str]:
    """The measure that every reader asks for first, at its longest length; nothing without one."""
    names = {name for point in done for name in point.measures}
    for prefix in SCORES:
        lengths = [int(name.removeprefix(prefix)) for name in names if name.startswith(prefix)]
        if lengths:
            return [f"{prefix}{max(lengths)}"]
    return []
