"""A run, or several, as one page."""

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
    """The page to write; null is report.html in the run's folder, or in the one above several."""

    @property
    def runs(self) -> list[str]:
        """The folders."""
        given = cast("object", self.run)
        folders = cast("list[object]", given) if isinstance(given, list) else [given]
        return [str(folder) for folder in folders]

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        if self.run in (None, "", []) or not all(self.runs):
            return ["run is not set: say run=runs/default, or another run folder"]
        return []
