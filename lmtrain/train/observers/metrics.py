"""Reports as lines of JSON: the one record of a run, from which every other view is made."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lmtrain.train.report import values

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.train.report import Report


class Metrics:
    """Appends every report as a line of JSON to ``metrics.jsonl``."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def __call__(self, report: Report) -> None:
        """Write it; lines for a person are left out."""
        if not isinstance(report, str):
            self._file.write(json.dumps(values(report)) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
