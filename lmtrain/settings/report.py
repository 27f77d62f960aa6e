"""A run, several, or a sweep, as one page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast


@dataclass(kw_only=True)
class ReportConfig:
    """What runs did, as a page and in the terminal."""

    run: Any = "runs/default"
    """A run folder; several, run=[runs/a,runs/b], drawn over each other; or a folder of runs, as a
    sweep leaves it."""
    out: str | None = None
    """The page to write; null is report.html in the run's folder, or in the one above several. Of a
    sweep a table .csv and a folder of pictures go beside it, by the same name."""
    measure: str | None = None
    """What decides in a sweep, such as loss, answers@128 or flops_to@4.6; null takes what its
    claims are about, else right answers, else the loss."""
    rows: str | None = None
    """A key that varies in a sweep, for the rows of the map: model.pattern; null chooses."""
    columns: str | None = None
    """Another for the columns: data.task.name, or length for the lengths scored; null chooses."""

    @property
    def runs(self) -> list[str]:
        """The folders."""
        given = cast("object", self.run)
        folders = cast("list[object]", given) if isinstance(given, list) else [given]
        return [str(folder) for folder in folders]

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        problems: list[str] = []
        if self.run in (None, "", []) or not all(self.runs):
            problems.append("run is not set: say run=runs/default, or another run folder")
        if self.out is not None and not self.out.endswith(".html"):
            problems.append(
                f"out={self.out} is the page, and other files go beside it: end it with .html"
            )
        if self.rows is not None and self.rows == self.columns:
            problems.append(f"rows={self.rows} and columns={self.columns} are one: choose another")
        return problems
