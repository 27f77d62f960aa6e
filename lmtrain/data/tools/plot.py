"""The picture of a store's statistics."""

# pyright: reportUnknownMemberType=false
# (matplotlib leaves its keyword arguments unknown)

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from lmtrain.data.curriculum_config import CurriculumConfig
    from lmtrain.data.tools.stats import Course, Histogram

BAR = "#3b6ea5"
GREY = "#666666"


def plot(
    path: Path,
    name: str,
    histogram: Histogram,
    courses: Sequence[Course],
    curriculum: CurriculumConfig,
) -> None:
    """Write the picture: tokens by length of document, and steps by length of piece.

    Raises:
        ValueError: it cannot be written.
    """
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.35])
    _draw_histogram(left, histogram, curriculum)
    several = [course for course in courses if len(course.lengths) > 1]
    _draw_courses(right, several or courses)
    figure.suptitle(
        f"{name}: {histogram.documents.sum():,} documents, {histogram.tokens.sum():,} tokens"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise ValueError(f"out={path} cannot be written ({error}): choose another file") from error


def short(number: int) -> str:
    """A power of two like 512, 8K or 1M."""
    for shift, letter in ((20, "M"), (10, "K")):
        if number >= 1 << shift:
            return f"{number >> shift}{letter}"
    return str(number)


def _draw_histogram(axes: Axes, histogram: Histogram, curriculum: CurriculumConfig) -> None:
    bins = np.arange(len(histogram.tokens))
    share = histogram.tokens / histogram.tokens.sum()
    axes.bar(bins + 0.5, share, width=0.92, color=BAR)
    for i in np.flatnonzero(histogram.documents).tolist():
        axes.annotate(
            _count(int(histogram.documents[i])),
            (i + 0.5, float(share[i])),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=GREY,
        )
    for length in {curriculum.min_length, curriculum.max_length}:
        axes.axvline(length.bit_length() - 1, color="black", linestyle=":", linewidth=1)
    first = int(np.flatnonzero(histogram.documents)[0])
    axes.set_xlim(first, max(len(bins), curriculum.max_length.bit_length() - 1) + 0.1)
    ticks = list(range(first, len(bins) + 1))
    axes.set_xticks(ticks, [short(1 << i) for i in ticks], fontsize=8, rotation=45)
    axes.set_ylim(0, 1.08 * float(share.max()))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("tokens of a document (dotted: shortest and longest piece)")
    axes.set_ylabel("share of all tokens")
    axes.set_title("Documents by length (on the bars: how many)")
    _plain(axes)


def _draw_courses(axes: Axes, courses: Sequence[Course]) -> None:
    lengths = sorted({length for course in courses for length in course.lengths})
    shades = colormaps["viridis"](np.linspace(0.95, 0.05, len(lengths)))
    for number, course in enumerate(courses):
        parts = len(course.shares)
        width = 0.86 / parts
        places = number + (np.arange(parts) - (parts - 1) / 2) * width
        below = np.zeros(parts)
        for column, length in enumerate(course.lengths):
            share = course.shares[:, column]
            color = shades[lengths.index(length)]
            axes.bar(places, share, width=width, bottom=below, color=color, linewidth=0)
            below += share
    axes.set_xticks(range(len(courses)), [c.name for c in courses], rotation=35, ha="right")
    axes.set_xlim(-0.55, len(courses) - 0.45)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel("share of the steps")
    axes.set_title("Steps by length of piece, from the first to the last eighth of a cycle")
    axes.legend(
        handles=[Patch(color=shades[i], label=short(length)) for i, length in enumerate(lengths)][
            ::-1
        ],
        title="length",
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
    )
    _plain(axes)


def _count(number: int) -> str:
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return str(number)


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
