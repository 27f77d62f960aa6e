"""Scores on a synthetic task: rows are dealt to the processes, those that share a row split it."""

from __future__ import annotations

from math import lcm
from typing import TYPE_CHECKING

import numpy as np
import torch

from lmtrain.data.tasks.task import examples, score
from lmtrain.layout import SequenceLayout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lmtrain.data.tasks.task import Examples, Score, Task
    from lmtrain.evaluate.restore import Restored


@torch.no_grad()
def answers(
    restored: Restored, task: Task, *, length: int, first: int, rows: int, seed: int, tokens: int
) -> Score:
    """The score on rows ``first`` to ``first + rows``; every process calls this.

    Args:
        restored: the model.
        task: what is asked.
        length: tokens of a row.
        first: number of the first row.
        rows: how many.
        seed: of the rows.
        tokens: computed at once, at least one row.

    Raises:
        ValueError: the task has more tokens than the model, or longer rows.
    """
    vocabulary = restored.run.model.vocab_size
    if vocabulary is None or task.vocab_size > vocabulary:
        raise ValueError(
            f"{task} has {task.vocab_size} tokens and the model {vocabulary}: train it with "
            "data=task and this task, or evaluate another"
        )
    found = torch.zeros(3, rows, dtype=torch.float64)  # right answers, asked, group
    place = restored.engine.place
    for numbers in _dealt(restored, length, rows, tokens):
        drawn = examples(task, first + numbers, seed=seed, length=length)
        right = _right(restored, drawn)
        real = numbers < rows
        found[0, numbers[real]] += torch.from_numpy(right[real]).double()
        if place.sequence_rank == 0:
            found[1, numbers[real]] = torch.from_numpy(drawn.asked.sum(1)[real]).double()
            found[2, numbers[real]] = torch.from_numpy(drawn.group[real]).double()
    total = restored.engine.total(found.to(restored.engine.device)).cpu().numpy()
    return score(task, *total.astype(np.int64))


def _dealt(restored: Restored, length: int, rows: int, tokens: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of the rows of each batch of this process; all have as many, some past the end."""
    place = restored.engine.place
    whole = lcm(length, place.sequence_world) // length  # rows that cut into equal spans
    batch = max(1, tokens // (length * whole)) * whole
    batch = min(batch, -(-rows // (place.world * whole)) * whole)
    for begin in range(0, rows, batch * place.world):
        yield begin + place.rank * batch + np.arange(batch)


def _right(restored: Restored, drawn: Examples) -> NDArray[np.int64]:
    """``[rows]``: asked tokens that the model finds likeliest, in the span of this process."""
    place, device = restored.engine.place, restored.engine.device
    rows, length = drawn.tokens.shape
    whole = SequenceLayout.whole(range(0, rows * length + 1, length))
    layout = whole.shard(place.sequence_rank, place.sequence_world).to(device)
    here = slice(layout.start, layout.stop)
    logits = restored.model(torch.from_numpy(drawn.tokens.reshape(-1)[here]).to(device), layout)
    likeliest = np.full(rows * length, -1)
    likeliest[here] = logits.argmax(-1).cpu().numpy()
    return ((likeliest.reshape(rows, length) == drawn.targets) & drawn.asked).sum(1)
