"""`lmtrain eval`: a checkpoint's scores as tables and a JSON file."""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from lmtrain.config import read, require
from lmtrain.evaluate.scores import scores, task_of
from lmtrain.evaluate.subject import restore
from lmtrain.files import write_whole
from lmtrain.machine import machine
from lmtrain.settings.scores import ScoreKind, unanswerable
from lmtrain.train.checkpoint import find
from lmtrain.train.engines import open_engine

if TYPE_CHECKING:
    from lmtrain.settings.evaluate import EvalConfig
    from lmtrain.settings.scores import ScoresSection

DICTIONARIES = ("by_group", "by_position", "by_block")


def evaluate(config: EvalConfig) -> list[dict[str, Any]]:
    """Score a checkpoint; rank 0 prints and writes. The records, see `lmtrain.evaluate.scores`.

    Raises:
        ValueError: the configuration has problems, or does not fit the checkpoint.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    require(config.check(world))
    folder = find(Path(config.checkpoint or ""))
    run = read(folder / "config.yaml")
    task = task_of(run, config.task)
    what = config.what or [ScoreKind.task if task else ScoreKind.text]
    text = run.data.task.name is None
    require(unanswerable(config, what, model=run.model, task=task, text=text))
    with closing(open_engine(config.engine, config.parallel, world=world)) as engine:
        console = Console(quiet=engine.rank > 0)
        subject = restore(config, run, folder, engine)
        found = list(scores(subject, config, what=what, task=task, tell=console.print))
    if not found:
        raise ValueError(
            f"lengths={config.lengths} leave nothing to score on data.val_fraction="
            f"{run.data.val_fraction} of the text: ask for shorter ones, or for a task=mqar"
        )
    if engine.rank == 0:
        above = folder.parent.parent if folder.parent.name == "checkpoints" else folder.parent
        out = Path(config.out) if config.out else above / "scores.json"
        write(out, found, checkpoint=folder, config=config, device=engine.device.type)
        for kind in what:
            _show(console, [each for each in found if each["what"] == kind])
        console.print(f"written to {out}", markup=False, highlight=False)
    return found


def write(
    path: Path,
    found: list[dict[str, Any]],
    *,
    checkpoint: Path,
    config: EvalConfig | ScoresSection,
    device: str = "cpu",
) -> None:
    """Write records, and where they come from, to a file that is never seen half-written."""
    record = {
        "checkpoint": str(checkpoint),
        "config": asdict(config),
        "machine": machine(device),
        "scores": found,
    }
    write_whole(path, json.dumps(record, indent=1) + "\n")


def _show(console: Console, found: list[dict[str, Any]]) -> None:
    """A row for each record of one kind; its dictionary beside it."""
    if not found:
        return
    parts = next((key for key in DICTIONARIES if key in found[0]), "")
    names = list(dict.fromkeys(name for each in found for name in each.get(parts, {})))
    plain = [key for key in found[0] if key != "what" and key not in DICTIONARIES]
    names = [] if len(names) == 1 else names
    table = Table(title=found[0]["what"])
    for heading in (*plain, *names):
        table.add_column(heading.replace("_", " "), justify="right")
    for each in found:
        cells = [*(each[key] for key in plain), *(each[parts].get(name, "") for name in names)]
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells))
    console.print(table)
