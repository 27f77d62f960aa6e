"""The loss on held-back text by the length of its pieces, and by the place of a token in them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import lcm, log
from typing import TYPE_CHECKING

import torch

from lmtrain.batch import IGNORED
from lmtrain.data.sources import open_data
from lmtrain.data.validation import ValidationSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmtrain.evaluate.restore import Restored

PLACES = 32
"""Places are told apart by their binary digits."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Nats per target of one length."""

    length: int
    targets: int
    loss: float
    bits_per_byte: float | None
    by_position: dict[str, float]
    """Of tokens by how many stand before them in the piece: 0, 1, 2-3, 4-7, ..."""


@torch.no_grad()
def losses(
    restored: Restored, lengths: Sequence[int], *, targets: int, tokens: int
) -> list[Losses]:
    """The losses of each length that the text has; every process calls this.

    Args:
        restored: the model, and the run whose held-back text is read.
        lengths: powers of two; pieces are cut to the powers between the least and the largest.
        targets: about how many.
        tokens: computed at once, at least one piece.

    Raises:
        ValueError: no document is long enough.
    """
    engine, run = restored.engine, restored.run
    curriculum = replace(run.curriculum, min_length=min(lengths), max_length=max(lengths))
    held = ValidationSet(open_data(run.data), curriculum, targets)
    longest = max(held.targets)
    row = max(1, tokens // longest) * lcm(longest, engine.place.sequence_world)
    numbers = {length: number for number, length in enumerate(held.targets)}
    sums = torch.zeros(2, len(numbers), PLACES, dtype=torch.float64, device=engine.device)
    for length, batch in held.batches(row, **asdict(engine.place), device=engine.device):
        nats = restored.model(batch.tokens, batch.layout, batch.targets).nll
        digits = torch.frexp(batch.layout.position.double())[1].long()
        kept = batch.targets != IGNORED
        sums[0, numbers[length]].index_add_(0, digits, nats.double())
        sums[1, numbers[length]].index_add_(0, digits, kept.double())
    nats, counts = engine.total(sums).tolist()
    return [
        _losses(length, nats[number], counts[number], (held.bytes or {}).get(length))
        for length, number in numbers.items()
        if length in lengths
    ]


def _losses(length: int, nats: list[float], counts: list[float], size: int | None) -> Losses:
    return Losses(
        length=length,
        targets=round(sum(counts)),
        loss=sum(nats) / sum(counts),
        bits_per_byte=sum(nats) / log(2) / size if size else None,
        by_position={
            _place(digits): each / count
            for digits, (each, count) in enumerate(zip(nats, counts, strict=True))
            if count
        },
    )


def _place(digits: int) -> str:
    """The places of so many binary digits: ``4-7`` has three."""
    first, last = (1 << digits) // 2, (1 << digits) - 1
    return str(first) if first >= last else f"{first}-{last}"
