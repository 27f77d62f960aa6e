"""A model over rows of any length: whole, or in stretches that carry states from one to the next.

With stretches memory is that of a stretch, and of the states: constant for recurrences and windows,
a key and a value for each token under full attention. What comes out is what a whole row gives.
"""

from __future__ import annotations

from itertools import pairwise
from math import lcm
from typing import TYPE_CHECKING

import torch

from lmtrain.batch import Batch
from lmtrain.layout import SequenceLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from lmtrain.evaluate.subject import Subject
    from lmtrain.models.decoder import Decoder, DecoderState
    from lmtrain.parallel.mesh import Place


def nats(subject: Subject, batch: Batch, tokens: int) -> Tensor:
    """``[t]``: of each target, 0 where there is none.

    Args:
        subject: the model; every process calls this with equally long documents.
        batch: whole rows, or this process's span of a row that is shared.
        tokens: computed at once; a shared row is always computed whole.
    """
    model = subject.model
    return _over(
        subject,
        batch,
        tokens,
        whole=lambda part: model(part.tokens, part.layout, part.targets).nll,
        stretch=lambda hidden, targets: model.losses(hidden, targets).nll,
    )


def likeliest(subject: Subject, batch: Batch, tokens: int) -> Tensor:
    """``[t]``: the likeliest token after each; arguments as those of `nats`."""
    model = subject.model
    return _over(
        subject,
        batch,
        tokens,
        whole=lambda part: model(part.tokens, part.layout).argmax(-1),
        stretch=lambda hidden, _: model.logits(hidden).argmax(-1),
    )


def row_for(length: int, pieces: int, tokens: int, place: Place) -> int:
    """Tokens of a row of a process, or of those that share it, for so many pieces of a length.

    Whole pieces that cut into equal spans: about ``tokens`` together, or one piece, and no more
    than are needed.
    """
    unit = lcm(length, place.cuts)
    needed = -(-pieces * length // (unit * place.world))
    return max(1, min(tokens // unit, needed)) * unit


@torch.no_grad()
def _over(
    subject: Subject,
    batch: Batch,
    tokens: int,
    *,
    whole: Callable[[Batch], Tensor],
    stretch: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """What ``whole`` gives for whole documents, and ``stretch`` for stretches of longer ones."""
    if subject.engine.place.sequence_world > 1:
        return whole(batch)
    found: list[Tensor] = []
    for part in _parts(batch, tokens):
        if len(part.tokens) <= tokens:
            found.append(whole(part))
        else:
            state = subject.model.initial_states()
            hidden = (each for each, _ in read(subject.model, part.tokens, tokens, state))
            found += map(stretch, hidden, part.targets.split(tokens))
    return torch.cat(found)


def read(
    model: Decoder, document: Tensor, tokens: int, state: DecoderState
) -> Iterator[tuple[Tensor, DecoderState]]:
    """Hidden states ``[at most tokens, d]``, and the state, after each stretch of ``document``.

    Args:
        model: whose parameters may be held by several processes, all of which call this.
        document: ``[t]`` tokens, the next ones of a document.
        tokens: of a stretch.
        state: before them.
    """
    for stretch in document.split(tokens):
        hidden, state = model.extend(stretch, state)
        yield hidden, state


def _parts(batch: Batch, tokens: int) -> Iterator[Batch]:
    """Whole documents of rows, as many at a time as have ``tokens`` together, at least one."""
    bounds = batch.layout.bounds
    if bounds[-1] <= tokens:
        yield batch
        return
    first = [0]
    for end, following in pairwise(bounds[1:]):
        if following - first[-1] > tokens:
            first.append(end)
    for begin, end in pairwise([*first, bounds[-1]]):
        inside = (bound - begin for bound in bounds if begin <= bound <= end)
        layout = SequenceLayout.whole(inside).to(batch.layout.device)
        yield Batch(batch.tokens[begin:end], batch.targets[begin:end], layout)
