"""What became of the points of a sweep, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from lmtrain.report.points import points
from lmtrain.sweep.folder import read_error

if TYPE_CHECKING:
    from collections.abc import Sequence
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
    errors = {point.name: read_error(folder / point.name) for point in asked}
    failed = {name: error for name, error in errors.items() if error is not None}
    done = {point.run.folder.name: point for point in points(folder)}
    score = _score(list(done.values()))
    table = Table()
    for heading in asked[0].values:
        table.add_column(heading.rpartition(".")[2])
    for heading in ("state", "steps", "loss", *([score] if score else [])):
        table.add_column(heading, justify="left" if heading == "state" else "right")
    states = [_state(point.name in failed, done.get(point.name)) for point in asked]
    for point, state in zip(asked, states, strict=True):
        found = done.get(point.name)
        measures = found.measures if found else {}
        numbers = [_number(measures.get(name)) for name in ("loss", *([score] if score else []))]
        steps = str(found.run.step) if found else ""
        table.add_row(*point.values.values(), state, steps, *numbers)
    console = Console(highlight=False, markup=False)
    console.print()
    console.print(table)
    for name, error in failed.items():
        console.print(f"{name}: {error}", soft_wrap=True)
    finished = states.count("finished")
    console.print(f"{finished} of {len(asked)} points finished, {len(failed)} failed", end="")
    console.print("" if finished == len(asked) else ": the same command runs the others")
    console.print(f"report: lmtrain report run={folder}", soft_wrap=True)
    return len(failed)


def _state(failed: bool, found: Done | None) -> str:  # noqa: FBT001
    if failed:
        return "failed"
    if found is None or not found.run.config:
        return "not begun"
    return "finished" if found.run.finished else "stopped"


def _score(done: Sequence[Done]) -> str | None:
    """The measure that every reader asks for first, at its longest length."""
    names = {name for point in done for name in point.measures}
    for prefix in SCORES:
        lengths = [int(name.removeprefix(prefix)) for name in names if name.startswith(prefix)]
        if lengths:
            return f"{prefix}{max(lengths)}"
    return None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
