"""Scores of a model: each a record that is flat but for its named dictionaries."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lmtrain.data.sources import open_data
from lmtrain.data.store import Side
from lmtrain.data.tasks.task import examples
from lmtrain.evaluate.answers import answers
from lmtrain.evaluate.context import contexts
from lmtrain.evaluate.positions import losses
from lmtrain.evaluate.states import ROWS, states
from lmtrain.settings.scores import ScoreKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from lmtrain.config import RunConfig
    from lmtrain.data.store import Documents
    from lmtrain.data.tasks.config import TaskConfig
    from lmtrain.evaluate.subject import Subject
    from lmtrain.settings.scores import Asked


def task_of(run: RunConfig, name: str | None = None) -> TaskConfig | None:
    """The task that is scored: the run's own or, as its paper has it, the one of this name."""
    own = run.data.task
    if name not in (None, own.name):
        own = replace(own, name=name, options={})
    return own if own.name else None


def scores(
    subject: Subject,
    asked: Asked,
    *,
    what: Sequence[ScoreKind],
    task: TaskConfig | None,
    tell: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """The records, kind by kind; every process calls this.

    Args:
        subject: the model, and the run whose held-back text is read.
        asked: lengths and how many.
        what: the kinds.
        task: of the rows that are asked and along which states are read; None reads text.
        tell: hears of lengths that the text does not have.
    """
    for kind in what:
        match kind:
            case ScoreKind.task:
                assert task is not None
                yield from _answers(subject, asked, task)
            case ScoreKind.states if task is not None:
                for length in sorted({*(asked.lengths or task.lengths)}):
                    rows = _unseen(task) + np.arange(_count(asked, length))
                    drawn = examples(task.task, rows, seed=task.seed, length=length)
                    yield states(subject, drawn.tokens, tokens=asked.row)
            case _:
                yield from _of_text(subject, asked, kind, tell)


def _answers(subject: Subject, asked: Asked, task: TaskConfig) -> Iterator[dict[str, Any]]:
    for length in sorted({*(asked.lengths or task.lengths)}):
        found = answers(
            subject,
            task.task,
            length=length,
            first=_unseen(task),
            rows=asked.rows,
            seed=task.seed,
            tokens=asked.row,
        )
        yield {"what": "task", "task": task.name, "length": length, **found._asdict()}


def _unseen(task: TaskConfig) -> int:
    """The first row that a run on the task neither trained nor validated on."""
    return task.rows + task.val_rows


def _of_text(
    subject: Subject, asked: Asked, kind: ScoreKind, tell: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    data = open_data(subject.run.data)
    documents = data.documents(Side.validation)
    lengths = sorted({*(asked.lengths or subject.run.curriculum.lengths)})
    longest = int(documents.lengths.max(initial=1)) - 1  # the last token has no target
    there = [length for length in lengths if length <= longest]
    if missing := lengths[len(there) :]:
        tell(
            f"{kind}: no held-back document has the {', '.join(map(str, missing))} targets that "
            f"were asked for, the longest has {longest}"
        )
    if kind is ScoreKind.text:
        found = losses(subject, there, targets=asked.tokens, tokens=asked.row) if there else []
        if without := sorted({*there} - {each["length"] for each in found}):
            tell(f"text: decomposition leaves no piece of {', '.join(map(str, without))} targets")
        yield from found
    elif kind is ScoreKind.states:
        for length in there:
            starts = _spread(documents, length, count=_count(asked, length))
            yield states(subject, data.read(starts, length), tokens=asked.row)
    else:
        for length in there:
            budget = {"budget": asked.tokens, "tokens": asked.row}
            yield from contexts(subject, data, documents, length=length, **budget)


def _count(asked: Asked, length: int) -> int:
    """Rows along which states are read."""
    return max(1, min(ROWS, asked.tokens // length))


def _spread(documents: Documents, length: int, *, count: int) -> NDArray[np.int64]:
    """Where so many documents of more than ``length`` tokens begin, at even distances."""
    starts = documents.starts[documents.lengths > length]
    count = min(count, len(starts))
    return starts[np.arange(count) * len(starts) // count]
