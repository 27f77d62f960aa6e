"""The folder of a sweep: who holds it, what was asked, and what became of each point.

sweep.yaml  POINT/config.yaml …  POINT/error.txt  POINT/asked.json
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from lmtrain import files
from lmtrain.report.points import ASKED, read_told

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

ERROR = "error.txt"
"""Why a point failed, in its run folder; gone when it succeeds."""


def claimed(folder: Path) -> AbstractContextManager[None]:
    """Make the folder of a sweep and keep other sweeps out of it; raises as `files.claimed`."""
    return files.claimed(folder, "another sweep: wait for it, or choose another")


def write_sweep(folder: Path, told: Mapping[str, Any]) -> None:
    """Write ``sweep.yaml``, which is never seen half-written.

    Points of earlier commands stay in the folder, so what varied among them is still told.

    Raises:
        ValueError: the folder holds a run.
    """
    if (folder / "config.yaml").exists():
        raise ValueError(
            f"run.dir={folder} holds a run, and a sweep would put others inside it: choose another"
        )
    path = folder / "sweep.yaml"
    keys = dict.fromkeys(key for each in (read_told(path), told) for key in each.get("keys") or [])
    files.write_whole(path, OmegaConf.to_yaml(OmegaConf.create({**told, "keys": [*keys]})))


def write_error(folder: Path, told: str, values: Mapping[str, str] | None = None) -> None:
    """Say in a run folder why its run failed, and what was asked of it: its name may be cut."""
    folder.mkdir(parents=True, exist_ok=True)
    if values:
        files.write_whole(folder / ASKED, json.dumps({**values}))
    (folder / ERROR).write_text(f"{told}\n", encoding="utf-8")


def forget_error(folder: Path) -> None:
    """The run succeeded."""
    for name in (ERROR, ASKED):
        (folder / name).unlink(missing_ok=True)
