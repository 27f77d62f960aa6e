"""Parts of a page: everything that comes from data is escaped here."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape
from typing import TYPE_CHECKING

from lmtrain import __version__
from lmtrain.report.svg import draw
from lmtrain.report.theme import CSS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lmtrain.report.chart import Chart


def document(title: str, parts: Iterable[str], *, style: str = "", script: str = "") -> str:
    """A page that needs nothing else: no font, no network, no script but one that is given.

    Its policy lets a browser run that one alone, so even what would slip through the escaping could
    load and run nothing.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    if script:
        digest = b64encode(sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{CSS}{style}</style>\n</head>\n<body>",
            f"<h1>{escape(title)}</h1>",
            *parts,
            f"<footer>lmtrain {escape(__version__)}</footer>",
            *([f"<script>{script}</script>"] if script else []),
            "</body>\n</html>\n",
        ]
    )


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Rows of text, the first column naming them."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return f'<div class="wide"><table>{f"<tr>{top}</tr>" if top else ""}{body}</table></div>'


def figures(charts: Iterable[Chart]) -> str:
    """Charts side by side, as many as fit; empty when there are none."""
    drawn = "".join(
        f"<figure><figcaption>{escape(chart.title)}</figcaption>{draw(chart)}</figure>"
        for chart in charts
    )
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def preformatted(text: str) -> str:
    """Text as it stands, such as a command."""
    return f"<pre>{escape(text)}</pre>"
