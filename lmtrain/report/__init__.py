"""Reports of runs and of sweeps, made from what they left in their folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lmtrain.config import require
from lmtrain.report.facts import commands, facts
from lmtrain.report.points import is_sweep
from lmtrain.report.read import Run, find_runs, read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lmtrain.settings.report import ReportConfig


def report(config: ReportConfig) -> None:
    """Write the page of runs or of sweeps, and print what it says in words.

    Raises:
        ValueError: there is no run, the page cannot be written, or a key does not vary.
    """
    require(config.check())
    folders = [Path(folder) for folder in config.runs]
    if any(is_sweep(folder) for folder in folders):
        _report_sweeps(folders, config)
        return
    if asked := [name for name in ("measure", "rows", "columns") if getattr(config, name)]:
        raise ValueError(f"{asked[0]} is of sweeps, and run={config.run} is none: leave it out")
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

    path = _place([run.folder for run in runs], out)
    try:
        path.write_text(page(runs), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"out={path} cannot be written: {error}") from error
    return path


def _report_sweeps(folders: Sequence[Path], config: ReportConfig) -> None:
    """The same for sweeps: a page, a table beside it, and its pictures."""
    from lmtrain.report.study import study, write_csv, write_pictures  # which need matplotlib
    from lmtrain.report.sweep_page import sweep_page

    studies = [study(folder, config, number) for number, folder in enumerate(folders)]
    if not any(each.sweep.points or each.sweep.overrides for each in studies):
        raise ValueError(
            f"run={config.run} holds no run: give the run.dir of a training, or of a sweep"
        )
    for each in studies:
        print("\n".join(each.summary()), end="\n\n")
    path = _place(folders, config.out)
    table, pictures = path.with_suffix(".csv"), path.with_suffix("")
    try:
        path.write_text(sweep_page(studies), encoding="utf-8")
        write_csv(studies, table)
        write_pictures(studies, pictures)
    except OSError as error:
        raise ValueError(f"out={path} cannot be written: {error}") from error
    print(f"report  {path}, {table.name}, {pictures.name}/*.png")


def _place(folders: Sequence[Path], out: str | None) -> Path:
    """Where the page goes."""
    if any(folder.is_absolute() for folder in folders):
        folders = [folder.absolute() for folder in folders]
    return Path(out) if out else Path(os.path.commonpath(folders)) / "report.html"


__all__ = ["read", "report", "summary", "write_page"]
