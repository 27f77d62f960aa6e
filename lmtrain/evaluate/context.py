"""How much context a model uses: the loss of the same targets after 1, 2, 4, ... tokens."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lmtrain.data.validation import deal
from lmtrain.evaluate.stretches import nats, row_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lmtrain.data.sources import Corpus
    from lmtrain.data.store import Documents
    from lmtrain.evaluate.subject import Subject


def contexts(
    subject: Subject, data: Corpus, documents: Documents, *, length: int, budget: int, tokens: int
) -> list[dict[str, Any]]:
    """Nats per target, by how many tokens before it are seen; every process calls this.

    Every target has a window of its own for each context, a document of that many tokens: nothing
    before it is seen, by attention or by a state.

    Args:
        subject: the model.
        data: where the documents lie.
        documents: held-back ones, at least one of more than ``length`` tokens.
        length: the longest context, a power of two.
        budget: tokens to read, about; a target costs twice ``length``.
        tokens: computed at once.
    """
    targets = _targets(documents, length, count=max(1, budget // (2 * length)))
    return [
        {
            "what": "context",
            "length": length,
            "context": context,
            "targets": len(targets),
            "loss": _loss(subject, data, targets - context, context, tokens),
        }
        for context in (1 << digits for digits in range(length.bit_length()))
    ]


def _targets(documents: Documents, length: int, count: int) -> NDArray[np.int64]:
    """Positions of so many tokens, or all, that have ``length`` before them, at even distances."""
    choices = np.maximum(documents.lengths - length, 0)
    ends = np.cumsum(choices)
    count = min(count, int(ends[-1]))
    picked = np.arange(count) * int(ends[-1]) // count
    document = np.searchsorted(ends, picked, side="right")
    offset = picked - (ends - choices)[document]
    return documents.starts[document] + length + offset


@torch.no_grad()
def _loss(
    subject: Subject, data: Corpus, starts: NDArray[np.int64], context: int, tokens: int
) -> float:
    """The mean loss of the last target of windows."""
    engine = subject.engine
    row = row_for(context, len(starts), tokens, engine.place)
    total = torch.zeros(1, dtype=torch.float64, device=engine.device)
    place = asdict(engine.place)
    for _, batch in deal(data, {context: starts}, row, **place, device=engine.device):
        last = batch.layout.position == context - 1
        total += nats(subject, batch, tokens).where(last, 0.0).sum(dtype=torch.float64)
    return engine.total(total).item() / len(starts)
