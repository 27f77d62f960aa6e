"""Reports as lines of JSON: the one record of a run, from which every other view is made."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING

from lmtrain.train.report import values

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.train.report import Report


FULL = {errno.ENOSPC, errno.EDQUOT}


class Metrics:
    """Appends every report as a line of JSON to ``metrics.jsonl``.

    On a full disk lines wait for room, which a run that goes on may yet find.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._waiting = b""

    def __call__(self, report: Report) -> None:
        """Write it; lines for a person are left out."""
        if not isinstance(report, str):
            self._waiting += json.dumps(values(report)).encode() + b"\n"
            self._write()

    def close(self) -> None:
        """Close the file."""
        self._write()
        self._file.close()

    def _write(self) -> None:
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            if error.errno not in FULL:
                raise
