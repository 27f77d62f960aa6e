"""The report as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from lmtrain import __version__
from lmtrain.report.charts import charts
from lmtrain.report.facts import between, changed, commands, facts
from lmtrain.report.svg import draw

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lmtrain.report.read import Run

CSS = """
:root {
  color-scheme: light dark;
  --paper: light-dark(#ffffff, #15181d); --ink: light-dark(#1d2129, #dde2ea);
  --soft: light-dark(#5c6470, #9aa4b2); --grid: light-dark(#e3e6ea, #2c323b);
  --first: light-dark(#8fc7e8, #3f6fb5); --last: light-dark(#7a1fa2, #f2b84b);
  --series-0: light-dark(#1f6fb4, #6cb2f0); --series-1: light-dark(#d1581f, #f79a62);
  --series-2: light-dark(#2a8a4a, #67cd87); --series-3: light-dark(#a3308f, #e587d4);
  --series-4: light-dark(#8a6d00, #e0c23f); --series-5: light-dark(#4d5866, #aeb8c6);
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0;
  overflow-wrap: anywhere; }
th { font-weight: normal; color: var(--soft); overflow-wrap: normal; }
.wide { overflow-x: auto; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr));
  gap: 1.25rem; }
figure { margin: 0; min-width: 0; }
figcaption { color: var(--soft); }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: system-ui, sans-serif !important; }
pre { margin: .25rem 0 1rem; padding: .6rem; border: 1px solid var(--grid); border-radius: 4px;
  white-space: pre-wrap; overflow-wrap: anywhere; }
footer { margin-top: 2rem; color: var(--soft); }
"""

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Even what would slip through the escaping could load and run nothing."""


def page(runs: Sequence[Run]) -> str:
    """The page of a run, or of several beside each other."""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    parts = _one(runs[0]) if len(runs) == 1 else _several(runs)
    figures = [
        f"<figure><figcaption>{escape(chart.title)}</figcaption>{draw(chart)}</figure>"
        for chart in charts(runs)
    ]
    plotted = f'<h2>Curves</h2>\n<div class="charts">{"".join(figures)}</div>' if figures else ""
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>",
            f"<h1>{escape(title)}</h1>",
            *parts[:1],
            plotted,
            *parts[1:],
            f"<footer>lmtrain {escape(__version__)}</footer>\n</body>\n</html>\n",
        ]
    )


def _one(run: Run) -> list[str]:
    """The parts of the page of one run; curves come after the first."""
    parts = [_table(facts(run).items())]
    if differing := changed(run):
        rows = [(key, value, default) for key, (value, default) in differing.items()]
        parts.append("<h2>Configured</h2>" + _table(rows, ("key", "value", "default")))
    if run.samples:
        texts = "".join(
            f"{escape(name)}<pre>{escape(text)}</pre>" for name, text in run.samples.items()
        )
        parts.append(f"<h2>Samples</h2>{texts}")
    if following := commands(run):
        lines = "".join(
            f"{escape(name)}<pre>{escape(line)}</pre>" for name, line in following.items()
        )
        parts.append(f"<h2>Next</h2>{lines}")
    return parts


def _several(runs: Sequence[Run]) -> list[str]:
    """What runs have in common is left out of the table of what was configured."""
    told = [facts(run) for run in runs]
    names = dict.fromkeys(name for each in told for name in each)
    rows = [(name, *(each.get(name, "") for each in told)) for name in names]
    head = ("", *(run.name for run in runs))
    parts = [_table(rows, head)]
    if differing := between(list(runs)):
        rows = [(key, *values) for key, values in differing.items()]
        parts.append("<h2>Configured differently</h2>" + _table(rows, head))
    return parts


def _table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Rows of text, the first column naming them."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return f'<div class="wide"><table>{f"<tr>{top}</tr>" if top else ""}{body}</table></div>'
