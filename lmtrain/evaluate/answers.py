"""Scores on a synthetic task: rows are dealt to the processes, those that share a row split it."""

from __future__ import annotations

from math import lcm
from typing import TYPE_CHECKING

import numpy as np
import torch

from lmtrain.batch import Batch
from lmtrain.data.tasks.task import examples, score
from lmtrain.evaluate.stretches import likeliest
from lmtrain.layout import SequenceLayout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lmtrain.data.tasks.task import Examples, Score, Task
    from lmtrain.evaluate.subject import Subject


@torch.no_grad()
def answers(
    subject: Subject, task: Task, *, length: int, first: int, rows: int, seed: int, tokens: int
) -> Score:
    """The score on rows ``first`` to ``first + rows``; every process calls this.

    Args:
        subject: the model.
        task: what is asked.
        length: tokens of a row.
        first: number of the first row.
        rows: how many.
        seed: of the rows.
        tokens: computed at once; a row that a process has alone is read in stretches.

    Raises:
        ValueError: rows of this length are too short for the task.
    """
    found = torch.zeros(3, rows, dtype=torch.float64)  # right answers, asked, group
    place = subject.engine.place
    for numbers in _dealt(subject, length, rows, tokens):
        drawn = examples(task, first + numbers, seed=seed, length=length)
        right = _right(subject, drawn, tokens)
        real = numbers < rows
        found[0, numbers[real]] += torch.from_numpy(right[real]).double()
        if place.sequence_rank == 0:
            found[1, numbers[real]] = torch.from_numpy(drawn.asked.sum(1)[real]).double()
            found[2, numbers[real]] = torch.from_numpy(drawn.group[real]).double()
    total = subject.engine.total(found.to(subject.engine.device)).cpu().numpy()
    return score(task, *total.astype(np.int64))


def _dealt(subject: Subject, length: int, rows: int, tokens: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of the rows of each batch of this process; all have as many, some past the end."""
    place = subject.engine.place
    whole = lcm(length, place.cuts) // length  # rows that cut into equal spans
    batch = max(1, tokens // (length * whole)) * whole
    batch = min(batch, -(-rows // (place.world * whole)) * whole)
    for begin in range(0, rows, batch * place.world):
        yield begin + place.rank * batch + np.arange(batch)


def _right(subject: Subject, drawn: Examples, at_once: int) -> NDArray[np.int64]:
    """``[rows]``: asked tokens that the model finds likeliest, in the span of this process."""
    place, device = subject.engine.place, subject.engine.device
    rows, length = drawn.tokens.shape
    whole = SequenceLayout.whole(range(0, rows * length + 1, length))
    layout = whole.shard(place.sequence_rank, place.sequence_world).to(device)
    here = slice(layout.start, layout.stop)
    tokens, targets = (torch.from_numpy(x.reshape(-1)[here]) for x in drawn[:2])
    batch = Batch(tokens.to(device), targets.to(device), layout)
    found = np.full(rows * length, -1)
    found[here] = likeliest(subject, batch, at_once).cpu().numpy()
    return ((found.reshape(rows, length) == drawn.targets) & drawn.asked).sum(1)
