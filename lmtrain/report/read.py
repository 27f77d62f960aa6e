"""What a run left in its folder, whoever wrote it and however it ended."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lmtrain.config import flat

if TYPE_CHECKING:
    from collections.abc import Sequence

Record = dict[str, Any]
"""A line of ``metrics.jsonl``, or values of a configuration by dotted key."""

KINDS = {
    "started": "starts",
    "loss": "steps",
    "val_loss": "validations",
    "gradient_norm": "norms",
    "fault": "faults",
}
"""The kind of a line by a name that only such lines have."""


@dataclass(kw_only=True)
class Run:
    """A run as its folder tells it; what is missing is empty."""

    folder: Path
    config: Record = field(default_factory=dict[str, Any])
    """By dotted key, as it was written; of any version."""
    starts: list[Record] = field(default_factory=list[Record])
    steps: list[Record] = field(default_factory=list[Record])
    validations: list[Record] = field(default_factory=list[Record])
    norms: list[Record] = field(default_factory=list[Record])
    faults: list[Record] = field(default_factory=list[Record])
    samples: dict[str, str] = field(default_factory=dict[str, str])
    """Text by name of its file."""
    scores: list[Record] = field(default_factory=list[Record])
    """What `lmtrain eval`, or the run at its end, wrote to ``scores.json``."""
    finished: bool = False
    checkpoint: bool = False
    """Whether there is something to continue from."""
    notes: list[str] = field(default_factory=list[str])
    """What could not be read, a sentence each."""

    @property
    def name(self) -> str:
        """For a legend."""
        return str(self.folder)

    @cached_property
    def step(self) -> int:
        """Updates that were reported."""
        return max((record["step"] for record in self.steps), default=0)

    def column(self, name: str, of: Sequence[Record] | None = None) -> list[float]:
        """One value of every step, or of other lines; NaN where it is missing."""
        records = self.steps if of is None else of
        return [_number(record.get(name)) for record in records]

    def has(self, name: str) -> bool:
        """Whether any step has such a number."""
        return any(record.get(name) is not None for record in self.steps)

    def tokens_at(self, records: Sequence[Record]) -> list[float]:
        """Tokens learned by the steps of other lines; NaN where no such step was reported."""
        return [self._tokens.get(record["step"], float("nan")) for record in records]

    @cached_property
    def _tokens(self) -> dict[int, float]:
        return {record["step"]: _number(record.get("tokens")) for record in self.steps}


def find_runs(paths: Sequence[str]) -> list[Run]:
    """The runs of several folders; a folder that is none itself gives those below it.

    Raises:
        ValueError: there is no such folder, or no run in it.
    """
    return [read(folder) for path in paths for folder in _folders(Path(path))]


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise ValueError(f"run={path} is not a folder: give a run folder, like run=runs/default")
    if (path / "metrics.jsonl").is_file():
        return [path]
    found = sorted(metrics.parent for metrics in path.rglob("metrics.jsonl"))
    if not found:
        raise ValueError(
            f"run={path} holds no metrics.jsonl, so it is no run: give the run.dir of a training"
        )
    return found


def read(folder: Path) -> Run:
    """What a run folder holds; damage becomes a note."""
    run = Run(
        folder=folder,
        finished=(folder / "done").is_file(),
        checkpoint=any((folder / "checkpoints").glob("step_*/state.json")),
    )
    _read_config(run)
    _read_metrics(run)
    _read_scores(run)
    for path in sorted((folder / "samples").glob("*.txt")):
        run.samples[path.stem] = path.read_text(encoding="utf-8", errors="replace")
    return run


def _read_config(run: Run) -> None:
    try:
        config = OmegaConf.load(run.folder / "config.yaml")
        assert isinstance(config, DictConfig)
        run.config = flat(config)
    except (OSError, UnicodeError, AssertionError, YAMLError, OmegaConfBaseException):
        run.notes.append("config.yaml cannot be read: what was configured is left out")


def _read_metrics(run: Run) -> None:
    damaged, path = 0, run.folder / "metrics.jsonl"
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            record = _record(line)
            if record is None:
                damaged += 1
                continue
            for name, kind in KINDS.items():
                if name in record:
                    getattr(run, kind).append(record)
    if damaged:
        some = "a line" if damaged == 1 else f"{damaged} lines"
        run.notes.append(f"{some} of metrics.jsonl cannot be read: cut short, or damaged")


def _read_scores(run: Run) -> None:
    path = run.folder / "scores.json"
    if not path.is_file():
        return
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
        run.scores = [score for score in scores if isinstance(score, dict)]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        run.notes.append("scores.json cannot be read: scores are left out")


def _record(line: str) -> Record | None:
    """A line, or None if it is not what a run writes."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    fits = isinstance(record, dict) and isinstance(record.get("step"), int)
    return record if fits else None


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
