"""Scores of the model after the last step of its run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lmtrain.evaluate.evaluate import write
from lmtrain.evaluate.scores import scores, task_of

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.evaluate.subject import Subject
    from lmtrain.train.observers import Everyone
    from lmtrain.train.stop import StopRequest


def score(subject: Subject, path: Path, *, tell: Everyone, stop: StopRequest) -> bool:
    """Write what ``scores.what`` asks to ``path``; every process calls this.

    Returns:
        Whether all was written; not if a signal asked one of the processes to stop.
    """
    engine, asked = subject.engine, subject.run.scores
    found = []
    for record in scores(subject, asked, what=asked.what, task=task_of(subject.run), tell=tell):
        found.append(record)
        stop.doing = f"scores, after {record['what']} of {record['length']} tokens"
        heard = torch.tensor(float(stop.signal is not None), device=engine.device)
        if engine.total(heard).item():
            return False
    if engine.rank == 0:
        write(path, found, checkpoint=subject.folder, config=asked, device=engine.device.type)
        tell(f"scores: {path}")
    return True
