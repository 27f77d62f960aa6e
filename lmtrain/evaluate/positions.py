"""The loss on held-back text by the length of its pieces, and by the place of a token in them."""

from __future__ import annotations

from dataclasses import asdict, replace
from math import log
from typing import TYPE_CHECKING, Any

import torch

from lmtrain.batch import IGNORED
from lmtrain.data.sources import open_data
from lmtrain.data.validation import ValidationSet, deal
from lmtrain.evaluate.stretches import nats, row_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmtrain.evaluate.subject import Subject

PLACES = 32
"""Places are told apart by their binary digits."""


@torch.no_grad()
def losses(
    subject: Subject, lengths: Sequence[int], *, targets: int, tokens: int
) -> list[dict[str, Any]]:
    """Nats per target of each length that the text has; every process calls this.

    ``by_position`` tells tokens apart by how many stand before them in the piece: 0, 1, 2-3, ...

    Args:
        subject: the model, and the run whose held-back text is read.
        lengths: powers of two, of which the text has the longest; pieces are cut to the powers
            between the least and the largest.
        targets: about how many.
        tokens: computed at once; a piece that a process has alone is read in stretches.
    """
    engine, run = subject.engine, subject.run
    curriculum = replace(run.curriculum, min_length=min(lengths), max_length=max(lengths))
    data = open_data(run.data)
    held = ValidationSet(data, curriculum, targets)
    asked = [length for length in held.pieces if length in lengths]
    sums = torch.zeros(2, len(asked), PLACES, dtype=torch.float64, device=engine.device)
    for number, length in enumerate(asked):
        starts, place = held.pieces[length], engine.place
        row = row_for(length, len(starts), tokens, place)
        for _, batch in deal(data, {length: starts}, row, **asdict(place), device=engine.device):
            digits = torch.frexp(batch.layout.position.double())[1].long()
            kept = batch.targets != IGNORED
            sums[0, number].index_add_(0, digits, nats(subject, batch, tokens).double())
            sums[1, number].index_add_(0, digits, kept.double())
    total, counts = engine.total(sums).tolist()
    return [
        _record(length, sums, number, (held.bytes or {}).get(length))
        for length, sums, number in zip(asked, total, counts, strict=True)
    ]


def _record(
    length: int, total: list[float], counts: list[float], size: int | None
) -> dict[str, Any]:
    return {
        "what": "text",
        "length": length,
        "targets": round(sum(counts)),
        "loss": sum(total) / sum(counts),
        "bits_per_byte": sum(total) / log(2) / size if size else None,
        "by_position": {
            place_of(digits): each / count
            for digits, (each, count) in enumerate(zip(total, counts, strict=True))
            if count
        },
    }


def place_of(digits: int) -> str:
    """The places of so many binary digits: ``4-7`` has three."""
    first, last = (1 << digits) // 2, (1 << digits) - 1
    return str(first) if first >= last else f"{first}-{last}"
