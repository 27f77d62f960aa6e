"""Reports of runs, made from what they left in their folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lmtrain.config import require
from lmtrain.report.facts import commands, facts
from lmtrain.report.read import Run, find_runs, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.settings.report import ReportConfig


def report(config: ReportConfig) -> None:
    """Write the page of one run or several, and print what it says in words.

    Raises:
        ValueError: there is no run, or the page cannot be written.
    """
    require(config.check())
    runs = find_runs(config.runs)
    for run in runs:
        print("\n".join(summary(run)), end="\n\n")
    print(f"report  {write_page(runs, config.out)}")


def summary(run: Run) -> Iterator[str]:
    """Lines for a person: what the run is, what it learned, how it goes on."""
    yield run.name
    for name, text in {**facts(run), **commands(run)}.items():
        yield f"  {name:<9} {text}"


def write_page(runs: list[Run], out: str | None = None) -> Path:
    """Write the page of ``runs`` and say where it is.

    Raises:
        ValueError: it cannot be written.
    """
    from lmtrain.report.page import page  # which needs matplotlib

    path = Path(out) if out else Path(os.path.commonpath([r.folder for r in runs])) / "report.html"
    try:
        path.write_text(page(runs), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"out={path} cannot be written: {error}") from error
    return path


__all__ = ["read", "report", "summary", "write_page"]
