"""The points of a sweep: what varied between its runs, and what each came to, as numbers."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lmtrain.report.facts import LAST, between, plain
from lmtrain.report.keys import bare, named_by, ordered, short_key
from lmtrain.report.progress import Progress, cost_of, teacher_cost_of
from lmtrain.report.read import Run, read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lmtrain.report.read import Record

TO_REACH = re.compile(r"\b(tokens|flops|hours)_to@(\d+(?:\.\d+)?)")
"""Measures that need a threshold, so they are computed when a claim or a reader names them."""

NOT_VARIED = ("run.dir", "findings", "launch.", "hydra.")
"""Keys by which no one compares runs."""

ASKED = "asked.json"
"""Beside the error of a point: the values of its overrides, by key or group."""

DIGEST = re.compile(r"-(?=\d*[a-f])[0-9a-f]{8}$")
"""What ends a folder's name that spells its values otherwise; a date of digits is a value."""


class State(StrEnum):
    """How a point ended; means and pictures are of those that finished."""

    finished = "finished"
    unfinished = "not finished"
    failed = "failed"


@dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    run: Run
    keys: dict[str, str]
    """What varies in the sweep, by dotted key or group: the value of this run, as text."""
    measures: dict[str, float]
    """Finite numbers by name, those that are known: ``loss`` and ``bits_per_byte`` of the last
    validation, ``train_loss``, ``tokens``, ``flops``, ``hours``, ``tokens_per_second``,
    ``parameters``, ``state_bytes`` (of generation, at the longest length trained on, and
    ``state_bytes@LENGTH`` where scored); of scores ``answers@LENGTH``, ``rows@LENGTH``,
    ``text_loss@LENGTH``, ``place_loss@LENGTH:FIRST-LAST`` (of tokens with so many before them),
    ``states@LENGTH`` (the last place), ``context_loss@LENGTH:CONTEXT``; of those asked for,
    ``flops_to@LOSS``, ``tokens_to@LOSS`` and ``hours_to@LOSS``: what was spent until the validation
    loss first was at or below it."""
    error: str | None = None
    """Why it failed, a sentence."""
    progress: Progress | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """For a person: what varies, or the folder where that is too much."""
        return named_by(self.keys, self.run.folder.name)

    @property
    def state(self) -> State:
        """How it ended; one that failed when it was continued has failed."""
        if self.error:
            return State.failed
        return State.finished if self.run.finished else State.unfinished

    @property
    def finished(self) -> bool:
        """Whether it ended well."""
        return self.state is State.finished


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A folder of points."""

    folder: Path
    name: str
    overrides: list[str]
    """The words of its command; empty where nothing recorded them."""
    keys: list[str]
    experiment: str | None
    points: list[Point]


def points(folder: Path, asked: Sequence[str] = ()) -> list[Point]:
    """The points of a sweep in the order of their keys; a folder that holds none gives none.

    Args:
        folder: ``run.dir`` of ``lmtrain train -m``, any folder of runs, or one run.
        asked: measures with a threshold to compute, such as ``flops_to@4.6``, beside those that
            the findings of the runs name.

    Raises:
        ValueError: there is no such folder.
    """
    return read_sweep(folder, asked).points


def read_sweep(folder: Path, asked: Sequence[str] = ()) -> Sweep:
    """The sweep in a folder; see `points`."""
    if not folder.is_dir():
        raise ValueError(f"run={folder} is not a folder: give the run.dir of a sweep")
    told = read_told(folder / "sweep.yaml")
    runs = [read(place) for place in _run_folders(folder)]
    keys = list(dict.fromkeys(map(bare, told.get("keys") or []))) or _differing(runs)
    words = [str(word) for word in told.get("overrides") or []]
    found = [
        Point(
            run=run,
            keys={key: _value(run, key, runs) for key in keys},
            error=_error(run.folder / "error.txt"),
            **_measured(run, asked),
        )
        for run in runs
    ]
    return Sweep(
        folder=folder,
        name=str(told.get("name") or folder.name),
        overrides=words,
        keys=keys,
        experiment=told.get("experiment"),
        points=_in_order(found, keys, words),
    )


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep rather than of one run."""
    return folder.is_dir() and ((folder / "sweep.yaml").is_file() or not _is_run(folder))


def _in_order(found: list[Point], keys: Sequence[str], words: Sequence[str]) -> list[Point]:
    places = {
        key: {v: n for n, v in enumerate(ordered(key, (p.keys[key] for p in found), words))}
        for key in keys
    }
    return sorted(found, key=lambda point: [places[key][point.keys[key]] for key in keys])


def read_told(path: Path) -> Record:
    """What `lmtrain train -m` wrote of the sweep; nothing where it is missing or damaged."""
    try:
        written = OmegaConf.load(path)
    except (OSError, UnicodeError, YAMLError, OmegaConfBaseException):
        return {}
    told: Any = OmegaConf.to_container(written) if isinstance(written, DictConfig) else {}
    lists = ("keys", "overrides")
    return {k: v for k, v in told.items() if k not in lists or isinstance(v, list)}


def _run_folders(folder: Path) -> list[Path]:
    """Run folders at or below ``folder``; what is inside a run is not looked at."""
    found: list[Path] = []
    for place, below, _ in os.walk(folder):
        if _is_run(Path(place)):
            found.append(Path(place))
            below.clear()
    return sorted(found)


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.yaml", "metrics.jsonl", "error.txt"))


def _error(path: Path) -> str | None:
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    return text or "failed, and error.txt does not say why"


def _differing(runs: list[Run]) -> list[str]:
    begun = [run for run in runs if run.config]
    return [key for key in between(begun) if not key.startswith(NOT_VARIED)]


def _value(run: Run, key: str, runs: list[Run]) -> str:
    """The value of a key, or what was chosen of a group: by its folder, its name, its keys."""
    if key in run.config:
        return plain(run.config[key])
    chosen = _asked(run.folder / ASKED).get(key) or _in_name(run.folder.name, key)
    if chosen or not run.config:
        return chosen
    if run.config.get(f"{key}.name") is not None:
        return plain(run.config[f"{key}.name"])
    below = (
        key if any(name.startswith(f"{key}.") for name in run.config) else key.rpartition(".")[0]
    )
    differing = [name for name in _differing(runs) if name.startswith(f"{below}.")]
    return ", ".join(f"{short_key(n)} {plain(run.config.get(n, ''))}" for n in differing)


def _asked(path: Path) -> dict[str, str]:
    """What a failed point was asked for; nothing where it was not written, or is damaged."""
    try:
        asked = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: plain(value) for key, value in asked.items()} if isinstance(asked, dict) else {}


def _in_name(name: str, key: str) -> str:
    """The value that the name of a point's folder tells; empty where it tells none."""
    name = DIGEST.sub("", name)
    found = re.search(rf"(?:^|,)\+*{re.escape(key)}=((?:[^,\[{{]|\[[^\]]*\]|{{[^}}]*}})*)", name)
    return found[1].strip("'\"") if found else ""


def _measured(run: Run, asked: Sequence[str]) -> dict[str, Any]:
    """Progress and measures of a run, as fields of its point."""
    cost = cost_of(run)
    progress = Progress.of(run, cost, teacher_cost_of(run))
    found = {**dict(_of_training(run, progress)), **dict(_of_scores(run.scores))}
    if run.starts and isinstance(size := run.starts[-1].get("parameters"), int):
        found["parameters"] = size
    elif cost:
        found["parameters"] = cost.total.parameters
    longest = run.config.get("curriculum.max_length")
    if cost and isinstance(longest, int):
        found["state_bytes"] = cost.total.state_bytes(longest)
        for length in sorted({s["length"] for s in run.scores if isinstance(s.get("length"), int)}):
            found[f"state_bytes@{length}"] = cost.total.state_bytes(length)
    claims = [str(v) for k, v in run.config.items() if k.partition(".")[0] == "findings"]
    for of, loss in sorted(set(TO_REACH.findall(" ".join([*asked, *claims])))):
        if (spent := progress.until(run, float(loss), of)) is not None:
            found[f"{of}_to@{loss}"] = spent
    finite = {name: float(value) for name, value in found.items() if isfinite(value)}
    return {"measures": finite, "progress": progress}


def _of_training(run: Run, progress: Progress) -> Iterator[tuple[str, float]]:
    """The last of what was measured while it trained, and what was spent."""
    for name, column in (("loss", "val_loss"), ("bits_per_byte", "val_bits_per_byte")):
        yield from ((name, value) for value in run.column(column, run.validations)[-1:])
    losses = [loss for loss in run.column("loss") if isfinite(loss)]
    if losses:
        yield "train_loss", fmean(losses[-max(1, len(losses) // LAST) :])
    speeds = [speed for speed in run.column("tokens_per_second") if isfinite(speed)]
    if speeds:
        yield "tokens_per_second", median(speeds)
    for name in ("tokens", "flops", "hours"):
        yield from ((name, value) for value in getattr(progress, name)[-1:])


def _of_scores(scores: Sequence[Record]) -> Iterator[tuple[str, float]]:
    """The records of ``scores.json``, each number by a name of its own."""
    for score in scores:
        length = score.get("length")
        match score:
            case {"what": "text", "loss": float(loss)}:
                yield f"text_loss@{length}", loss
                places = score.get("by_position")
                for place, nats in places.items() if isinstance(places, dict) else ():
                    if _is_number(nats):
                        yield f"place_loss@{length}:{place}", nats
            case {"what": "context", "loss": float(loss), "context": context}:
                yield f"context_loss@{length}:{context}", loss
            case {"what": "states", "by_position": {**by_position}} if by_position:
                last = list(by_position.values())[-1]
                yield from ((f"states@{length}", value) for value in [last] if _is_number(value))
            case {"answers": float() | int(), "rows": float() | int()}:
                yield f"answers@{length}", score["answers"]
                yield f"rows@{length}", score["rows"]
            case _:
                pass


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
