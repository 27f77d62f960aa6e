"""A heat map: means of one measure by the values of two keys."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from lmtrain.report.keys import is_condition, is_seed, ordered, short_key
from lmtrain.report.measures import higher, kind, length, named, shown, shown_error, title
from lmtrain.report.seeds import Estimate, estimate
from lmtrain.report.svg import DOTS_PER_INCH, styled
from lmtrain.report.theme import LIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lmtrain.report.points import Point, Sweep

LENGTH = "length"
"""Stands for a key as columns: the lengths at which the measure was taken."""


@dataclass(frozen=True, kw_only=True)
class Heat:
    """The table."""

    measure: str
    rows: str
    columns: str
    row_values: list[str]
    column_values: list[str]
    cells: dict[tuple[str, str], Estimate]
    """By row and column, where there is any point."""
    averaged: list[str]
    """Other keys that vary inside of cells; where there are any, a cell has no standard error."""

    @property
    def title(self) -> str:
        """What is shown, by what."""
        what = kind_title(self.measure) if self.columns == LENGTH else title(self.measure)
        by = [short_key(self.rows), *([short_key(self.columns)] if self.columns else [])]
        return f"{what}, by {' and '.join(by)}"

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest mean."""
        means = [cell.mean for cell in self.cells.values()]
        return min(means), max(means)

    def share(self, value: float) -> float:
        """How strong the colour of a value is: 0 of the least to 1 of the largest."""
        low, high = self.ends
        return (value - low) / (high - low) if high > low else 0.0

    def best(self, column: str) -> str | None:
        """The row with the best mean of a column; None where only one row has any."""
        found = {
            row: self.cells[row, column].mean
            for row in self.row_values
            if (row, column) in self.cells
        }
        choose = max if higher(self.measure) else min
        return choose(found, key=lambda row: found[row]) if len(found) > 1 else None

    @property
    def note(self) -> str:
        """How to read it."""
        counts = {cell.count for cell in self.cells.values()}
        runs = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
        means = "" if counts == {1} else f" Means of {runs} runs"
        if self.averaged and means:
            means += f" over {', '.join(map(short_key, self.averaged))}."
        elif means:
            means += " ± their standard error."
        return (
            f"Outlined: the {'highest' if higher(self.measure) else 'lowest'} of a column.{means}"
        )


def heat(
    sweep: Sweep,
    points: Sequence[Point],
    measure: str,
    rows: str | None = None,
    columns: str | None = None,
) -> Heat | None:
    """The heat map of a sweep; None where no key varies, or the measure is of no point.

    Args:
        sweep: its keys, and the order of their values.
        points: those that are shown; where they differ in other keys they are averaged.
        measure: what is shown.
        rows: a key that varies; None takes one of the model, else another that is decided.
        columns: another, or ``length``; None takes the first of what is learned, else a second
            that is decided, else the lengths at which the measure was taken.

    Raises:
        ValueError: a key that does not vary here.
    """
    varied = [key for key in sweep.keys if _varies(points, key)]
    _check(rows, varied, "rows")
    if columns == LENGTH and length(measure) is None:
        raise ValueError(
            f"columns=length: measure={measure} is not taken at lengths: leave it out, or choose "
            "a measure that is, such as answers@128"
        )
    _check(columns, [*varied, LENGTH], "columns")
    rows = rows or _first([key for key in varied if key != columns])
    if rows is None:
        return None
    columns = columns or _columns(points, varied, rows, measure)
    found = _cells(points, measure, rows, columns)
    averaged = [key for key in varied if key not in (rows, columns)]
    if not found:
        return None
    words = sweep.overrides
    across = {column for _, column in found}
    return Heat(
        measure=measure,
        rows=rows,
        columns=columns,
        row_values=ordered(rows, (row for row, _ in found), words),
        column_values=ordered(columns, across, words),
        cells={place: cell for place, each in found.items() if (cell := estimate(each))},
        averaged=averaged,
    )


def kind_title(measure: str) -> str:
    """In words, wherever it was taken."""
    return title(kind(measure))


def html(shown_heat: Heat) -> str:
    """The heat map as a table whose cells are coloured."""
    columns = shown_heat.column_values
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr><th>{escape(row)}</th>{''.join(_cell(shown_heat, row, c) for c in columns)}</tr>"
        for row in shown_heat.row_values
    )
    low, high = (shown(shown_heat.measure, end) for end in shown_heat.ends)
    return (
        f'<p class="soft">{escape(shown_heat.title)}. {escape(shown_heat.note)} '
        f'<span class="mark">{low} <span class="scale"></span> {high}</span></p>'
        f'<div class="wide"><table class="heat"><thead><tr><th>{_corner(shown_heat)}</th>{head}'
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )


def save(shown_heat: Heat, path: Path) -> None:
    """The heat map as a PNG on white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    rows, columns = shown_heat.row_values, shown_heat.column_values
    shades = LinearSegmentedColormap.from_list("", [LIGHT["paper"], LIGHT["heat"]])
    with styled(LIGHT["ink"], LIGHT["grid"], shown_heat.title):
        figure = Figure(figsize=(1.9 + 0.95 * len(columns), 1.2 + 0.42 * len(rows)))
        axes = figure.add_subplot()
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        shares = [
            [
                0.68 * shown_heat.share(shown_heat.cells[row, column].mean)
                if (row, column) in shown_heat.cells
                else 0.0
                for column in columns
            ]
            for row in rows
        ]
        axes.imshow(shares, cmap=shades, vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        for (row, column), cell in shown_heat.cells.items():
            text = "\n± ".join(_numbers(shown_heat, cell))
            place = columns.index(column), rows.index(row)
            strong = "bold" if shown_heat.best(column) == row else "normal"
            axes.text(*place, text, ha="center", va="center", fontsize=8, weight=strong)
        axes.set_title(shown_heat.title, fontsize=9)
        FigureCanvasAgg(figure).print_figure(path, dpi=DOTS_PER_INCH, bbox_inches="tight")


def _check(key: str | None, varied: Sequence[str], name: str) -> None:
    if key is not None and key not in varied:
        raise ValueError(f"{name}={key} does not vary in this sweep: use {', '.join(varied)}")


def _varies(points: Sequence[Point], key: str) -> bool:
    return not is_seed(key) and len({point.keys.get(key) for point in points}) > 1


def _first(varied: Sequence[str]) -> str | None:
    """The first key of the model, else the first that is decided, else the first."""
    chosen = [key for key in varied if not is_condition(key)]
    model = [key for key in chosen if key.partition(".")[0] == "model"]
    return next(iter([*model, *chosen, *varied]), None)


def _columns(points: Sequence[Point], varied: Sequence[str], rows: str, measure: str) -> str:
    """The key of the columns when none is named; empty for one column."""
    others = [key for key in varied if key != rows]
    conditions = [key for key in others if is_condition(key)]
    taken = [name for name in named(points) if kind(name) == kind(measure) and length(name)]
    lengths = [LENGTH] if len(taken) > 1 else []
    return next(iter([*conditions, *others, *lengths]), "")


def _cells(
    points: Sequence[Point], measure: str, rows: str, columns: str
) -> dict[tuple[str, str], list[float]]:
    found: dict[tuple[str, str], list[float]] = {}
    for point in points:
        for name, value in point.measures.items():
            of_length = columns == LENGTH and kind(name) == kind(measure) and length(name)
            if of_length or name == measure:
                column = str(length(name)) if columns == LENGTH else point.keys.get(columns, "")
                found.setdefault((point.keys[rows], column), []).append(value)
    return found


def _corner(shown_heat: Heat) -> str:
    across = f" \\ {short_key(shown_heat.columns)}" if shown_heat.columns else ""
    return escape(f"{short_key(shown_heat.rows)}{across}")


def _cell(shown_heat: Heat, row: str, column: str) -> str:
    cell = shown_heat.cells.get((row, column))
    if cell is None:
        return '<td class="none">–</td>'
    mean, *error = _numbers(shown_heat, cell)
    best = ' class="best"' if shown_heat.best(column) == row else ""
    under = f"<small>± {escape(error[0])}</small>" if error else ""
    share = shown_heat.share(cell.mean)
    return f'<td{best} style="--share:{share:.3f}">{escape(mean)}{under}</td>'


def _numbers(shown_heat: Heat, cell: Estimate) -> list[str]:
    """The mean, and its standard error where seeds alone vary."""
    measure, mean = shown_heat.measure, shown(shown_heat.measure, cell.mean)
    if cell.error is None or shown_heat.averaged:
        return [mean]
    return [mean, shown_error(measure, cell.error)]
