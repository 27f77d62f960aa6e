"""`lmtrain eval`: a checkpoint's scores as tables and a JSON file."""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lmtrain.config import read, require
from lmtrain.data.sources import open_data
from lmtrain.evaluate.scores import scores, task_of
from lmtrain.evaluate.subject import restore
from lmtrain.evaluate.tables import tables
from lmtrain.files import write_whole
from lmtrain.machine import machine
from lmtrain.settings.checks import called
from lmtrain.settings.scores import ScoreKind, unanswerable
from lmtrain.train.checkpoint import find, folders, naming
from lmtrain.train.engines import open_engine
from lmtrain.train.invariants import check_checkpoint, check_same_start
from lmtrain.train.start import check_tokenizer

if TYPE_CHECKING:
    from lmtrain.settings.evaluate import EvalConfig
    from lmtrain.settings.scores import ScoresSection


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
    told = unanswerable(config, what, model=run.model, task=task, text=text)
    require(called(told, "data.task.name=", "task=") if config.task else told)
    if task is None or {ScoreKind.text, ScoreKind.context} & {*what}:
        check_tokenizer(
            f"checkpoint={config.checkpoint}",
            folder,
            open_data(run.data).folder / "tokenizer.json",
            remedy="ask harness.tasks=[…] of its export, or train it on a store prepared",
        )
    with closing(open_engine(config.engine, config.parallel, world=world)) as engine:
        check_same_start(engine, {"checkpoint": folder})
        with naming("checkpoint"):
            check_checkpoint(engine, folder, "model/")
        console = Console(quiet=engine.rank > 0)
        subject = restore(config, run, folder, engine)
        found = list(scores(subject, config, what=what, task=task, tell=console.print))
    if not found:
        raise ValueError(
            f"lengths={config.lengths} leave nothing to score on data.val_fraction="
            f"{run.data.val_fraction} of the text: ask for shorter ones, or for a task=mqar"
        )
    if engine.rank == 0:
        out = Path(config.out) if config.out else default_out(folder)
        write(out, found, checkpoint=folder, config=config, device=engine.device.type)
        for kind in what:
            if of_kind := [each for each in found if each["what"] == kind]:
                console.print(*tables(of_kind), sep="\n")
        console.print(f"written to {out}", markup=False, highlight=False)
    return found


def default_out(folder: Path) -> Path:
    """The file for scores: of the checkpoint's run, or beside a folder that is of no run."""
    folder = folder.absolute()
    run = folder.parent.parent
    if folder in folders(run / "checkpoints"):
        return run / "scores.json"
    return folder.with_name(f"{folder.name}.scores.json")


def write(
    path: Path,
    found: list[dict[str, Any]],
    *,
    checkpoint: Path,
    config: EvalConfig | ScoresSection,
    device: str,
) -> None:
    """Write records, and where they come from, to a file that is never seen half-written."""
    record = {
        "checkpoint": str(checkpoint),
        "config": asdict(config),
        "machine": machine(device),
        "scores": found,
    }
    write_whole(path, json.dumps(record, indent=1) + "\n")
