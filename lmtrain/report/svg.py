"""Charts as SVG that lies inside a page and takes its colours from it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    FixedLocator,
    LogLocator,
    NullLocator,
    StrMethodFormatter,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GRID = "#c0ffee", "#c0ffed"
"""Colours that stand for those of the page, replaced in the finished SVG."""
SHADE = "#c1f0{:02x}"
"""The same for the series of a chart, by number."""
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
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # names may hold dollar signs
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
}


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
    ordered: bool = False
    """The series have an order, as blocks and lengths do, and so have their colours."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to see."""
        return not any(len(_finite(s.x, s.y)[0]) for s in self.series)


def draw(chart: Chart) -> str:
    """The chart as one ``<svg>`` element, which refers to nothing outside the page."""
    # a salt of its own keeps the names in one SVG apart from those in the others
    style: dict[Any, Any] = {**STYLE, "svg.hashsalt": chart.title}
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the reader's fonts may have it
        figure = Figure(figsize=(5.2, 2.9))
        figure.subplots_adjust(**MARGINS)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        for number, series in enumerate(chart.series):
            _draw(axes, series, SHADE.format(number % 256))
        _scale(axes, chart)
        _legend(axes)
        out = StringIO()
        metadata: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(out, metadata=metadata)
    return _embedded(out.getvalue(), chart)


def thin(
    x: Sequence[float], y: Sequence[float], points: int = POINTS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """At most ``points`` means of neighbours, of ``x`` and ``y``; the least and largest ``y``."""
    xs, ys = _finite(x, y)
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


def _finite(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    fine = np.isfinite(xs) & np.isfinite(ys)
    return xs[fine], ys[fine]


def _draw(axes: Axes, series: Series, shade: str) -> None:
    x, y, low, high = thin(series.x, series.y)
    if not len(x):
        return
    name = series.label if series.label[:1] != "_" else f" {series.label}"  # _ would hide it
    if series.dots:
        axes.plot(x, y, ".", color=shade, markersize=4 if len(x) < FEW else 2.5, label=name)
    elif series.smooth:
        axes.fill_between(x, low, high, color=shade, alpha=0.25, linewidth=0)
        if len(series.x) <= POINTS:
            axes.plot(x, y, color=shade, alpha=0.3, linewidth=0.8)
        axes.plot(x, running_mean(y, len(y) / 20), color=shade, label=name)
    else:
        marker = "o" if series.marks or len(x) == 1 else ""
        axes.plot(x, y, color=shade, marker=marker, markersize=3.5, label=name)


def _scale(axes: Axes, chart: Chart) -> None:
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
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


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > LEGEND:
        shown = np.linspace(0, len(handles) - 1, LEGEND).round().astype(int)
        handles, labels = ([found[place] for place in shown] for found in (handles, labels))
    if len(handles) > 1:
        axes.legend(handles, labels, loc="best")


def _embedded(svg: str, chart: Chart) -> str:
    """Without the preamble of a file and fixed sizes, with the colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(chart.title)}"', 1)
    svg = svg.replace(INK, "currentColor").replace(GRID, "var(--grid)")
    for number in range(len(chart.series)):
        colour = _colour(number, len(chart.series), ordered=chart.ordered)
        svg = svg.replace(SHADE.format(number), colour)
    return svg


def _colour(number: int, count: int, *, ordered: bool) -> str:
    if not ordered:
        return f"var(--series-{number % 6})"
    share = 100 * number / max(count - 1, 1)
    return f"color-mix(in oklch, var(--last) {share:.0f}%, var(--first))"
