"""Charts as SVG that lies inside a page and takes its colours from it, or as PNG beside it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex, to_rgb

from lmtrain.report.chart import plot
from lmtrain.report.theme import LIGHT, SERIES

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.report.chart import Chart

INK, GRID, SOFT = "#c0ffee", "#c0ffed", "#c0ffec"
"""Colours that stand for those of the page, replaced in the finished SVG."""
SHADE = "#c1f0{:02x}"
"""The same for the series of a chart, by number."""
DOTS_PER_INCH = 200
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # names may hold dollar signs
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def draw(chart: Chart) -> str:
    """The chart as one ``<svg>`` element, which refers to nothing outside the page."""
    shades = [SHADE.format(number % 256) for number in range(len(chart.series))]
    with styled(INK, GRID, chart.title):
        figure, out = plot(chart, shades, SOFT), StringIO()
        metadata: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(out, metadata=metadata)
    return _embedded(out.getvalue(), chart)


def save(chart: Chart, path: Path) -> None:
    """The chart as a PNG on white, with its title."""
    count = len(chart.series)
    shades = [_light(number, count, ordered=chart.ordered) for number in range(count)]
    with styled(LIGHT["ink"], LIGHT["grid"], chart.title):
        figure = plot(chart, shades, LIGHT["soft"])
        figure.subplots_adjust(top=0.9)
        figure.suptitle(chart.title, fontsize=9, x=0.14, ha="left")
        figure.patch.set(alpha=1, facecolor=LIGHT["paper"])
        FigureCanvasAgg(figure).print_figure(path, dpi=DOTS_PER_INCH)


@contextmanager
def styled(ink: str, grid: str, salt: str) -> Generator[None]:
    """Matplotlib's style for a picture; ``salt`` keeps the names in one SVG apart from others'."""
    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style = {**STYLE, **dict.fromkeys(inks, ink), "grid.color": grid, "svg.hashsalt": salt}
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the reader's fonts may have it
        yield


def _embedded(svg: str, chart: Chart) -> str:
    """Without the preamble of a file and fixed sizes, with the colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(chart.title)}"', 1)
    for colour, name in ((INK, "currentColor"), (GRID, "var(--grid)"), (SOFT, "var(--soft)")):
        svg = svg.replace(colour, name)
    for number in range(len(chart.series)):
        colour = _colour(number, len(chart.series), ordered=chart.ordered)
        svg = svg.replace(SHADE.format(number), colour)
    return svg


def _colour(number: int, count: int, *, ordered: bool) -> str:
    if not ordered:
        return f"var(--series-{number % SERIES})"
    share = 100 * number / max(count - 1, 1)
    return f"color-mix(in oklch, var(--last) {share:.0f}%, var(--first))"


def _light(number: int, count: int, *, ordered: bool) -> str:
    """The colour as it is on white paper."""
    if not ordered:
        return LIGHT[f"series-{number % SERIES}"]
    share = number / max(count - 1, 1)
    ends = zip(to_rgb(LIGHT["first"]), to_rgb(LIGHT["last"]), strict=True)
    red, green, blue = (first + share * (last - first) for first, last in ends)
    return to_hex((red, green, blue))
