"""The report of a run, or of several beside each other, as one HTML page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from lmtrain.report.charts import charts
from lmtrain.report.facts import between, changed, commands, facts
from lmtrain.report.html import document, figures, preformatted, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmtrain.report.read import Run


def page(runs: Sequence[Run]) -> str:
    """The page of a run, or of several beside each other."""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    parts = _one(runs[0]) if len(runs) == 1 else _several(runs)
    drawn = figures(charts(runs))
    plotted = f"<h2>Curves</h2>\n{drawn}" if drawn else ""
    return document(title, [*parts[:1], plotted, *parts[1:]])


def _one(run: Run) -> list[str]:
    """The parts of the page of one run; curves come after the first."""
    parts = [table(facts(run).items())]
    if differing := changed(run):
        rows = [(key, value, default) for key, (value, default) in differing.items()]
        parts.append("<h2>Configured</h2>" + table(rows, ("key", "value", "default")))
    for title, texts in (("Samples", run.samples), ("Next", commands(run))):
        if texts:
            told = "".join(f"{escape(name)}{preformatted(text)}" for name, text in texts.items())
            parts.append(f"<h2>{title}</h2>{told}")
    return parts


def _several(runs: Sequence[Run]) -> list[str]:
    """What runs have in common is left out of the table of what was configured."""
    told = [facts(run) for run in runs]
    names = dict.fromkeys(name for each in told for name in each)
    rows = [(name, *(each.get(name, "") for each in told)) for name in names]
    head = ("", *(run.name for run in runs))
    parts = [table(rows, head)]
    if differing := between(list(runs)):
        rows = [(key, *values) for key, values in differing.items()]
        parts.append("<h2>Configured differently</h2>" + table(rows, head))
    return parts
