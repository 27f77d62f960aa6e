"""Curves of the loss of a sweep's choices, over what was spent."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from statistics import fmean
from typing import TYPE_CHECKING

from lmtrain.report.chart import Chart, Series, running_mean, thin
from lmtrain.report.theme import SERIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmtrain.report.points import Point
    from lmtrain.report.seeds import Group

SPENT = {"tokens": "tokens", "flops": "training FLOPs", "hours": "time"}
"""What loss is drawn over."""
FEW = 3
"""So many validations make a curve."""


def loss_over(rivals: Sequence[Group], over: str, condition: str) -> Chart:
    """The loss over what was spent; means over seeds, at the steps that all have.

    That of validations, where each run has a few; else that of training, as running means.
    """
    validated = all(len(p.run.validations) >= FEW for group in rivals for p in group.points)
    line_of, what = (_validated, "Validation") if validated else (_learned, "Training")
    series: list[Series] = []
    for group in rivals:
        lines = [line for point in group.points if (line := line_of(point, over))]
        steps = [step for step in lines[0] if all(step in line for line in lines)] if lines else []
        ys = [[line[step][1] for line in lines] for step in steps]
        series.append(
            Series(
                label=group.name,
                x=[fmean(line[step][0] for line in lines) for step in steps],
                y=[fmean(y) for y in ys],
                band=([min(y) for y in ys], [max(y) for y in ys]) if len(lines) > 1 else None,
                marks=len(steps) <= 12,  # noqa: PLR2004
            )
        )
    axis = SPENT[over]
    if over == "hours":
        series, axis = _clock(series)
    return Chart(
        title=f"{what} loss by {SPENT[over]}{condition}",
        x=axis,
        y="nats",
        series=series,
        ordered=len(series) > SERIES,
    )


def _clock(series: list[Series]) -> tuple[list[Series], str]:
    """Hours, in the unit that suits them."""
    longest = max((x for each in series for x in each.x), default=0.0)
    units = (("hours", 1, 2), ("minutes", 60, 2 / 60), ("seconds", 3600, 0))
    unit, factor, _ = next(found for found in units if longest >= found[2])
    scaled = [replace(each, x=[factor * x for x in each.x]) for each in series]
    return scaled, f"{unit} of training"


def _validated(point: Point, over: str) -> dict[int, tuple[float, float]]:
    """What was spent, and the validation loss, by step."""
    losses = point.run.column("val_loss", point.run.validations)
    return _line(point, over, [record["step"] for record in point.run.validations], losses)


def _learned(point: Point, over: str) -> dict[int, tuple[float, float]]:
    """What was spent, and the running mean of the training loss, by step."""
    steps = [record["step"] for record in point.run.steps]
    steps, losses, *_ = thin(steps, point.run.column("loss"), len(steps) or 1)
    means = running_mean(losses, len(losses) / 20)
    return _line(point, over, [int(step) for step in steps], list(means))


def _line(
    point: Point, over: str, steps: list[int], losses: Sequence[float]
) -> dict[int, tuple[float, float]]:
    spent = point.progress.at(steps, over) if point.progress else []
    return {
        step: (x, y)
        for step, x, y in zip(steps, spent, losses, strict=bool(spent))
        if isfinite(x) and isfinite(y)
    }
