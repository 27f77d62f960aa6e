"""`lmtrain bench what=data`: preparation, decomposition, the plan and the loader, beside others."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from lmtrain.bench.config import BenchConfig, DataPart
from lmtrain.bench.record import write_record
from lmtrain.bench.turns import Result
from lmtrain.config import require

if TYPE_CHECKING:
    from collections.abc import Callable


def bench_data(config: BenchConfig) -> tuple[list[Result], list[str]]:
    """Measure, print a table, and write ``config.out`` when it is set.

    Returns:
        The results, and a sentence on everything that could not be measured.

    Raises:
        ValueError: the configuration has problems, or there is no such input or store.
    """
    require(config.check())
    console, results, notes = Console(), list[Result](), list[str]()
    for part in config.parts:
        with console.status(f"measuring {part}"):
            found, missing = _measure(part)(config)
        results, notes = results + found, notes + missing
    console.print(table(results))
    for note in notes:
        console.print(note, highlight=False, soft_wrap=True)
    ours = _ours(results)
    records = [
        {**asdict(r), "value": r.value, "met": r.met, "ours_is": ours[r.what].speed_over(r)}
        for r in results
    ]
    write_record(config, records, notes)
    return results, notes


def _measure(part: DataPart) -> Callable[[BenchConfig], tuple[list[Result], list[str]]]:
    match part:
        case DataPart.prepare:
            from lmtrain.bench.preparing import measure_preparation as measure
        case DataPart.plan:
            from lmtrain.bench.planning import measure_plan as measure
        case DataPart.load:
            from lmtrain.bench.loading import measure_loader as measure
    return measure


def table(results: list[Result]) -> Table:
    """Work by work, ours first; ``ours is`` compares the speeds round by round."""
    made = Table(title="Tokens or documents a second and core, or time; median turn")
    made.add_column("what")
    made.add_column("contender")
    for heading in ("value", "ours is", "target"):
        made.add_column(heading, justify="right", no_wrap=True)
    ours = _ours(results)
    for result in results:
        mine = ours[result.what]
        if result is mine:
            made.add_section()
        made.add_row(
            result.what if result is mine else "",
            result.contender,
            _short(result.value, result),
            "" if result is mine else f"{mine.speed_over(result):.2f} ×",
            _target(result),
        )
    return made


def _ours(results: list[Result]) -> dict[str, Result]:
    """The first result of each work."""
    return {result.what: result for result in reversed(results)}


def _target(result: Result) -> str:
    if result.target is None:
        return ""
    return f"{_short(result.target, result)} {'met' if result.met else 'missed'}"


def _short(value: float, result: Result) -> str:
    if result.amount:
        return f"{value / 1e6:.3g} M/s"
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"
