"""The loss on documents that are never trained on, by the length of their pieces."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

import torch

from lmtrain.batch import IGNORED
from lmtrain.train.report import ValidationReport

if TYPE_CHECKING:
    from lmtrain.data.validation import ValidationSet
    from lmtrain.models.decoder import Decoder
    from lmtrain.train.engine import Engine


@torch.no_grad()
def validate(
    model: Decoder, validation: ValidationSet, engine: Engine, *, step: int, row: int
) -> ValidationReport:
    """The report after ``step`` updates; every process calls this.

    Args:
        model: in its present state.
        validation: the batches, the same for any number of processes.
        engine: adds up what the processes found.
        step: for the report.
        row: tokens of a batch.
    """
    place = {length: index for index, length in enumerate(validation.lengths)}
    sums = torch.zeros(len(place), 2, dtype=torch.float64, device=engine.device)
    for length, batch in validation.batches(row, rank=engine.rank, world=engine.world):
        here = batch.to(engine.device)
        losses = model(here.tokens, here.layout, here.targets)
        sums[place[length], 0] += losses.nll.sum(dtype=torch.float64)
        sums[place[length], 1] += (here.targets != IGNORED).sum()
    nats, counts = engine.total(sums).T.tolist()
    size = validation.bytes
    return ValidationReport(
        step=step,
        val_loss=sum(nats) / sum(counts),
        val_bits_per_byte=sum(nats) / log(2) / size if size else None,
        val_loss_by_length={
            str(length): nats[i] / counts[i] for length, i in place.items() if counts[i]
        },
    )
