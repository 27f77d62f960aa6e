"""`lmtrain eval`: a checkpoint's scores as a table and a JSON file."""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from lmtrain.config import require
from lmtrain.evaluate.answers import answers
from lmtrain.evaluate.positions import losses
from lmtrain.evaluate.restore import restore
from lmtrain.machine import machine
from lmtrain.train.engines import open_engine

if TYPE_CHECKING:
    from lmtrain.evaluate.restore import Restored
    from lmtrain.settings.evaluate import EvalConfig


def evaluate(config: EvalConfig) -> list[dict[str, Any]]:
    """Score a checkpoint; rank 0 prints and writes. One dictionary for each length.

    Raises:
        ValueError: the configuration has problems, or does not fit the checkpoint.
    """
    require(config.check())
    world = int(os.environ.get("WORLD_SIZE", "1"))
    with closing(open_engine(config.engine, config.parallel, world=world)) as engine:
        restored = restore(config, engine)
        found = _task(config, restored) if _asks(config, restored) else _text(config, restored)
    if engine.rank == 0:
        _tell(config, restored, found)
    return found


def _asks(config: EvalConfig, restored: Restored) -> bool:
    return (config.task or restored.run.data.task.name) is not None


def _task(config: EvalConfig, restored: Restored) -> list[dict[str, Any]]:
    """Rows of the run's own task come after those that it trained and validated on."""
    asked = restored.run.data.task
    if config.task not in (None, asked.name):
        asked = replace(asked, name=config.task, options={})
    require(asked.check_name())
    return [
        {
            "task": asked.name,
            "length": length,
            **answers(
                restored,
                asked.task,
                length=length,
                first=asked.rows + asked.val_rows,
                rows=config.rows,
                seed=asked.seed,
                tokens=config.row,
            )._asdict(),
        }
        for length in sorted(config.lengths or asked.lengths)
    ]


def _text(config: EvalConfig, restored: Restored) -> list[dict[str, Any]]:
    lengths = sorted(config.lengths or restored.run.curriculum.lengths)
    found = losses(restored, lengths, targets=config.tokens, tokens=config.row)
    return [asdict(each) for each in found]


def _tell(config: EvalConfig, restored: Restored, found: list[dict[str, Any]]) -> None:
    folder = restored.folder
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder.parent
    out = Path(config.out) if config.out else run / "scores.json"
    record = {
        "checkpoint": str(folder),
        "config": asdict(config),
        "machine": machine(config.device),
        "scores": found,
    }
    out.write_text(json.dumps(record, indent=1) + "\n")
    console = Console()
    console.print(_table(found, title=f"{restored.run.model.pattern} of {folder}"))
    console.print(f"written to {out}", markup=False, highlight=False)


def _table(found: list[dict[str, Any]], title: str) -> Table:
    """A row for each length; groups or positions side by side."""
    parts = "by_group" if "by_group" in found[0] else "by_position"
    names = list(dict.fromkeys(name for each in found for name in each[parts]))
    plain = [key for key in found[0] if key != parts]
    names = [] if len(names) == 1 else names
    table = Table(title=title)
    for heading in (*plain, *names):
        table.add_column(heading.replace("_", " "), justify="right")
    for each in found:
        cells = [*(each[key] for key in plain), *(each[parts].get(name, "") for name in names)]
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells))
    return table
