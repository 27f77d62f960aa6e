"""Scores as tables that fit a terminal."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.table import Table

from lmtrain.report.measures import number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

DICTIONARIES = ("by_group", "by_position", "by_block")
WIDE = 6
"""Lengths beside each other: as many as 80 letters hold."""


def tables(found: Sequence[dict[str, Any]]) -> Iterator[Table]:
    """The records of one kind of score: a row for each, then a table for each of its dictionaries.

    Those have a row for each name, and a column for each length.
    """
    keys = [key for key in found[0] if key not in ("what", *DICTIONARIES)]
    if keys != ["length"]:
        yield _table(found[0]["what"], keys, ([each[key] for key in keys] for each in found))
    for key in (key for key in DICTIONARIES if key in found[0]):
        rest = iter(found)
        while some := list(islice(rest, WIDE)):
            names = dict.fromkeys(name for each in some for name in each[key])
            if len(names) == 1:
                continue
            rows = ([name, *(each[key].get(name) for each in some)] for name in names)
            title = f"{found[0]['what']}, {key.replace('_', ' ')} and length"
            heads = key.removeprefix("by_"), *(str(each["length"]) for each in some)
            yield _table(title, heads, rows)


def _table(title: str, heads: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    table = Table(title=title)
    for head in heads:
        table.add_column(head.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def _cell(value: object) -> str:
    if value is None:
        return ""
    return number(value) if isinstance(value, float) else str(value)
