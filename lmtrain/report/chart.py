"""Charts: what they show, and how matplotlib draws them in any colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullLocator,
    StrMethodFormatter,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEGEND = 8
"""Series that a legend names; of more it names some."""
POINTS = 400
"""Points of a line at most: more cannot be seen."""
MARGINS = {"left": 0.14, "right": 0.98, "bottom": 0.16, "top": 0.97}
"""Of every picture: measuring each takes longer than drawing it."""
LARGE = 10_000
"""From here on numbers beside an axis have units, to fit."""
FEW = 100
"""Fewer points are drawn larger."""
TICKS = 9
"""Ticks on an axis of powers at most."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Numbers to draw against others."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    smooth: bool = False
    """Draw the running mean, and behind it how far the numbers spread."""
    marks: bool = False
    """Mark every point."""
    dots: bool = False
    """Points only, as for what jumps."""
    band: tuple[Sequence[float], Sequence[float]] | None = None
    """The least and largest at each point, drawn behind the line."""
    names: Sequence[str] = ()
    """What stands beside each point."""
    front: bool = False
    """A dashed line without points: the edge of what was reached."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One picture, about numbers of one kind."""

    title: str
    x: str
    """What the horizontal axis is."""
    y: str
    series: list[Series] = field(default_factory=list[Series])
    log: bool = False
    powers: bool = False
    """Powers of two, on an axis of their own kind."""
    lengths: bool = False
    """The horizontal axis has powers of two."""
    mark: float | None = None
    """A place on the horizontal axis that splits it: the longest length trained on."""
    ordered: bool = False
    """The series have an order, as blocks and lengths do, and so have their colours."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to see."""
        return not any(len(finite(s.x, s.y)[0]) for s in self.series)


def plot(chart: Chart, shades: Sequence[str], soft: str) -> Figure:
    """The chart as a figure; who calls has set matplotlib's style.

    Args:
        chart: what to draw.
        shades: the colour of each series.
        soft: the colour of what is beside the numbers.
    """
    figure = Figure(figsize=(5.2, 2.9))
    figure.subplots_adjust(**MARGINS)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    for series, shade in zip(chart.series, shades, strict=True):
        _draw(axes, series, shade)
    _scale(axes, chart)
    if chart.mark is not None:
        axes.axvline(chart.mark, color=soft, linewidth=0.8, linestyle=":")
        place: dict[str, Any] = {"xytext": (3, 4), "textcoords": "offset points", "fontsize": 7}
        at = axes.get_xaxis_transform()
        axes.annotate("trained to here", (chart.mark, 0), xycoords=at, color=soft, **place)
    _legend(axes)
    return figure


def thin(
    x: Sequence[float], y: Sequence[float], points: int = POINTS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """At most ``points`` means of neighbours, of ``x`` and ``y``; the least and largest ``y``."""
    xs, ys = finite(x, y)
    if not len(xs):
        return xs, ys, ys, ys
    cuts = np.unique(np.linspace(0, len(xs), min(points, len(xs)), endpoint=False, dtype=int))
    sizes = np.diff([*cuts, len(xs)])
    mean_x, mean_y = (np.add.reduceat(values, cuts) / sizes for values in (xs, ys))
    return mean_x, mean_y, np.minimum.reduceat(ys, cuts), np.maximum.reduceat(ys, cuts)


def running_mean(values: np.ndarray, span: float) -> np.ndarray:
    """Exponentially weighted means of about ``span`` values; the first is the first value."""
    kept, weight, mean = 1 - 1 / max(span, 1.0), 0.0, 0.0
    means = np.empty_like(values)
    for place, value in enumerate(values):
        weight, mean = kept * weight + 1, kept * mean + value
        means[place] = mean / weight
    return means


def finite(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Where both are finite."""
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    fine = np.isfinite(xs) & np.isfinite(ys)
    return xs[fine], ys[fine]


def _draw(axes: Axes, series: Series, shade: str) -> None:
    x, y, low, high = thin(series.x, series.y)
    if not len(x):
        return
    name = series.label if series.label[:1] != "_" else f" {series.label}"  # _ would hide it
    if series.front:
        axes.plot(x, y, color=shade, linestyle="--", linewidth=0.9)
    elif series.names:
        _named(axes, series, shade)
    elif series.dots:
        axes.plot(x, y, ".", color=shade, markersize=4 if len(x) < FEW else 2.5, label=name)
    elif series.smooth:
        axes.fill_between(x, low, high, color=shade, alpha=0.25, linewidth=0)
        if len(series.x) <= POINTS:
            axes.plot(x, y, color=shade, alpha=0.3, linewidth=0.8)
        axes.plot(x, running_mean(y, len(y) / 20), color=shade, label=name)
    else:
        if series.band:
            least, largest = (thin(series.x, edge)[1] for edge in series.band)
            axes.fill_between(x, least, largest, color=shade, alpha=0.18, linewidth=0)
        marker = "o" if series.marks or len(x) == 1 else ""
        axes.plot(x, y, color=shade, marker=marker, markersize=3.5, label=name)


def _named(axes: Axes, series: Series, shade: str) -> None:
    """Points with their names beside them, each where it covers least of what is there."""
    axes.plot(series.x, series.y, "o", color=shade, markersize=5)
    axes.margins(0.14, 0.16)
    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    scale = 72 / figure.dpi  # from pixels to the points that text is in
    points = axes.transData.transform(np.column_stack([series.x, series.y])) * scale
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in points]
    for (x, y), place, name in zip(
        points, zip(series.x, series.y, strict=True), series.names, strict=True
    ):
        wide, high = 4.3 * len(name), 7.5
        sides = [(-wide / 2, 5), (-wide / 2, -5 - high), (6, -high / 2), (-6 - wide, -high / 2)]
        boxes = [(x + dx, y + dy, x + dx + wide, y + dy + high) for dx, dy in sides]
        best = min(range(len(boxes)), key=lambda side: sum(_shared(boxes[side], t) for t in taken))
        taken.append(boxes[best])
        axes.annotate(name, place, xytext=sides[best], textcoords="offset points", fontsize=7.5)


def _shared(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The area that two boxes share: left, bottom, right, top."""
    wide = min(ours[2], theirs[2]) - max(ours[0], theirs[0])
    high = min(ours[3], theirs[3]) - max(ours[1], theirs[1])
    return max(wide, 0) * max(high, 0)


def _scale(axes: Axes, chart: Chart) -> None:
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if chart.lengths:
        _lengths(axes, chart)
    if chart.powers:
        axes.set_yscale("log", base=2)
        drawn = sorted({value for s in chart.series for value in s.y})
        axes.yaxis.set_major_locator(FixedLocator(drawn))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_minor_locator(NullLocator())
    elif chart.log and any(value > 0 for s in chart.series for value in s.y):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    elif axes.get_ylim()[1] >= LARGE:
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))


def _lengths(axes: Axes, chart: Chart) -> None:
    """An axis of powers of two, a tick at each that was measured as far as there is room."""
    drawn = sorted({value for s in chart.series for value in s.x})
    every = -(-len(drawn) // TICKS)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(drawn[::-1][::every][::-1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: power(x)))
    axes.xaxis.set_minor_locator(NullLocator())


def power(number: float) -> str:
    """A length in a few letters: 512, 64k."""
    for size, unit in ((1 << 20, "M"), (1 << 10, "k")):
        if number >= 2 * size and number % size == 0:
            return f"{number / size:.0f}{unit}"
    return f"{number:g}"


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > LEGEND:
        shown = np.linspace(0, len(handles) - 1, LEGEND).round().astype(int)
        handles, labels = ([found[place] for place in shown] for found in (handles, labels))
    if len(handles) > 1:
        axes.legend(handles, labels, loc="best")
