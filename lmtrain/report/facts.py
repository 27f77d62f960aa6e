"""What can be said of a run in words and numbers, and how it goes on."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from math import isfinite, nan
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from lmtrain.config import compose, flat
from lmtrain.report.measures import counted
from lmtrain.sentence import in_quotes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lmtrain.report.read import Record, Run

WORD = re.compile(r"(?!\.\d)[A-Za-z/_.][\w/.\-]*", re.ASCII)
"""What Hydra reads as text without quotes, but for words of its own."""

FAULTS = 8
"""So many of the latest faults are told."""

LAST = 20
"""The last loss is the mean over one step in so many, at the end."""


def facts(run: Run) -> dict[str, str]:
    """Sentences by what they are about; only what is known."""
    found = {
        "state": _state(run),
        "model": _model(run),
        "data": _data(run),
        "machine": _machine(run),
        "loss": _loss(run),
        "speed": _speed(run),
        "memory": _memory(run),
        "restarts": _restarts(run),
        "faults": _faults(run),
        "notes": "; ".join(run.notes),
    }
    return {name: text for name, text in found.items() if text}


def changed(run: Run) -> dict[str, tuple[str, str]]:
    """What was configured other than `lmtrain train` alone does: the value and the default.

    A key that this version does not know has no default.
    """
    return {
        key: (_text(value), _text(_defaults().get(key, "")))
        for key, value in run.config.items()
        if key != "run.dir" and _changed(key, value)
    }


def between(runs: list[Run]) -> dict[str, list[str]]:
    """The keys in which runs differ, and the value of each."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    found = {key: [_text(run.config.get(key, "")) for run in runs] for key in keys}
    return {key: row for key, row in found.items() if key != "run.dir" and len(set(row)) > 1}


def commands(run: Run) -> dict[str, str]:
    """What can be typed next, by what it does."""
    folder = shlex.quote(str(run.folder))
    found: dict[str, str] = {}
    if run.config and not run.finished:
        found["go on" if run.checkpoint else "begin again"] = command(run)
    if run.checkpoint:
        found["write"] = f"lmtrain generate checkpoint={folder}"
    return found


def command(run: Run) -> str:
    """The command line that composes the run's configuration, and so continues it.

    Claims about the sweep that it is a point of are left out: they change nothing of the run.
    """
    words = [_override("run.dir", str(run.folder))]
    words += [
        _override(key, value)
        for key, value in run.config.items()
        if key != "run.dir" and not key.startswith("findings") and _changed(key, value)
    ]
    return shlex.join(["lmtrain", "train", *words])


@cache
def _defaults() -> Record:
    return flat(compose())


def _changed(key: str, value: Any) -> bool:
    return key not in _defaults() or _defaults()[key] != value


def _override(key: str, value: Any) -> str:
    """A word of the command line; a key that the defaults do not have is added."""
    return f"{'' if key in _defaults() else '+'}{key}={_literal(value)}"


def _literal(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    match value:
        case None | bool() | int() | float():
            return json.dumps(value)
        case list():
            return f"[{','.join(map(_literal, value))}]"
        case dict():
            return f"{{{','.join(f'{name}:{_literal(each)}' for name, each in value.items())}}}"
        case _ if WORD.fullmatch(str(value)) and not _reserved(str(value)):
            return str(value)
        case _:
            return in_quotes(value)


def _reserved(text: str) -> bool:
    return text.lower() in ("null", "true", "false", "nan", "inf")


def plain(value: Any) -> str:
    """A value as text without quotes."""
    return value if isinstance(value, str) else _literal(value)


def _text(value: Any) -> str:
    return "" if value == "" else _literal(value)


def _state(run: Run) -> str:
    steps = run.config.get("train.steps")
    of = f" of {steps:,}" if isinstance(steps, int) else ""
    if not run.steps:
        return f"no step was reported{of.replace('of', 'yet of') if of else ''}"
    learned = [tokens for tokens in run.column("tokens") if isfinite(tokens)]
    tokens = f", {counted(learned[-1])} tokens" if learned else ""
    return f"{'finished' if run.finished else 'stopped'} at step {run.step:,}{of}{tokens}"


def _model(run: Run) -> str:
    names = {
        "model.pattern": "pattern {}",
        "model.n_layers": "{} layers",
        "model.d_model": "width {}",
    }
    said = [text.format(run.config[key]) for key, text in names.items() if key in run.config]
    size = run.starts[-1].get("parameters") if run.starts else None
    if isinstance(size, int):
        said.append(f"{counted(size)} parameters")
    return ", ".join(said)


def _data(run: Run) -> str:
    sources = sorted({key.split(".")[2] for key in run.config if key.startswith("data.sources.")})
    source = ", ".join(sources) or run.config.get("data.source", "")
    lengths = [run.config.get(f"curriculum.{end}_length") for end in ("min", "max")]
    said = [str(source)] if source else []
    if "curriculum.name" in run.config:
        said.append(f"curriculum {run.config['curriculum.name']}")
    if all(isinstance(length, int) for length in lengths):
        said.append(f"lengths {lengths[0]:,} to {lengths[1]:,}")
    if "train.tokens_per_step" in run.config:
        said.append(f"{counted(run.config['train.tokens_per_step'])} tokens a step")
    return ", ".join(said)


def _machine(run: Run) -> str:
    if not run.starts:
        return ""
    start = run.starts[-1]
    processes = start.get("processes", 1)
    said = [f"{processes} × {start.get('device', '?')}"]
    said += [f"{name} {start[name]}" for name in ("torch",) if name in start]
    said += [f"lmtrain {start['version']}"] if "version" in start else []
    return ", ".join(said)


def _loss(run: Run) -> str:
    losses = [loss for loss in run.column("loss") if isfinite(loss)]
    if not losses:
        return ""
    last = losses[-max(1, len(losses) // LAST) :]
    said = [
        f"{fmean(last):.3f} (mean of the last {len(last)})" if len(last) > 1 else f"{last[0]:.3f}"
    ]
    if run.validations:
        [loss], [size] = (
            run.column(name, run.validations[-1:]) for name in ("val_loss", "val_bits_per_byte")
        )
        said.append(f"validation {loss:.3f}")
        said += [f"{size:.3f} bits per byte"] if isfinite(size) else []
    return ", ".join(said)


def _speed(run: Run) -> str:
    speeds, waits = run.column("tokens_per_second"), run.column("data_wait")
    speed = _median(speeds)
    if not isfinite(speed):
        return ""
    said = [f"{speed:,.0f} tokens/s"]
    if isfinite(used := _median(run.column("mfu"))):
        said.append(f"MFU {used:.1%}")
    tokens = run.config.get("train.tokens_per_step")
    if isinstance(tokens, int) and isfinite(_median(waits)):
        shares = [w * s / tokens for w, s in zip(waits, speeds, strict=True)]
        said.append(f"{_median(shares):.1%} of a step waiting for data")
    if any(sent := [size for size in run.column("sp_bytes") if isfinite(size)]):
        said.append(f"{fmean(sent) / 2**20:,.2f} MiB a step sent for shared rows")
    return ", ".join([*said, "medians" if len(speeds) > 1 else ""]).rstrip(", ")


def _memory(run: Run) -> str:
    sizes = [size for size in run.column("memory") if isfinite(size)]
    return f"{max(sizes) / 2**30:.2f} GiB at most" if sizes else ""


def _restarts(run: Run) -> str:
    at = [str(start["step"]) for start in run.starts[1:]]
    return f"{len(at)}, after step {', '.join(at)}" if at else ""


def _faults(run: Run) -> str:
    if not run.faults:
        return ""
    said = "; ".join(f"step {fault['step']}, {fault['fault']}" for fault in run.faults[-FAULTS:])
    batches = "a batch was" if len(run.faults) == 1 else f"{len(run.faults)} batches were"
    return f"{batches} left out{', the last ones' if len(run.faults) > FAULTS else ''}: {said}"


def _median(values: Iterable[float]) -> float:
    finite = [value for value in values if isfinite(value)]
    return median(finite) if finite else nan
