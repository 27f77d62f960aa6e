"""The loss on documents that are never trained on, by the length of their pieces."""

from __future__ import annotations

from dataclasses import asdict
from math import log
from typing import TYPE_CHECKING

import torch

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
    lengths = list(validation.targets)
    nats = torch.zeros(len(lengths), dtype=torch.float64, device=engine.device)
    batches = validation.batches(row, **asdict(engine.place), device=engine.device)
    for length, batch in batches:
        losses = model(batch.tokens, batch.layout, batch.targets)
        nats[lengths.index(length)] += losses.nll.sum(dtype=torch.float64)
    by_length = dict(zip(lengths, engine.total(nats).tolist(), strict=True))
    total, size = sum(by_length.values()), validation.bytes
    return ValidationReport(
        step=step,
        val_loss=total / sum(validation.targets.values()),
        val_bits_per_byte=total / log(2) / sum(size.values()) if size else None,
        val_loss_by_length={
            str(length): sums / validation.targets[length] for length, sums in by_length.items()
        },
    )
