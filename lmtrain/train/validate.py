"""The loss on documents that are never trained on, by the length of their pieces."""

from __future__ import annotations

from dataclasses import asdict
from math import log
from typing import TYPE_CHECKING, TypeAlias

import torch

from lmtrain.train.report import ValidationReport

if TYPE_CHECKING:
    from lmtrain.data.validation import ValidationSet
    from lmtrain.data.validations import Validations
    from lmtrain.models.decoder import Decoder
    from lmtrain.train.engines import Engine


@torch.no_grad()
def validate(
    model: Decoder, validations: Validations, engine: Engine, *, step: int, row: int
) -> ValidationReport:
    """The report after ``step`` updates; every process calls this.

    Args:
        model: in its present state.
        validations: the batches, the same for any number of processes.
        engine: adds up what the processes found.
        step: for the report.
        row: tokens of a batch.
    """
    sets = validations.every
    cells = [(name, length) for name, each in sets.items() for length in each.targets]
    nats = torch.zeros(len(cells), dtype=torch.float64, device=engine.device)
    for name, each in sets.items():
        for length, batch in each.batches(row, **asdict(engine.place), device=engine.device):
            losses = model(batch.tokens, batch.layout, batch.targets)
            nats[cells.index((name, length))] += losses.nll.sum(dtype=torch.float64)
    found = dict(zip(cells, engine.total(nats).tolist(), strict=True))
    main = [cell for cell in cells if cell[0] in validations.main]
    return ValidationReport(
        step=step,
        val_loss=_mean(found, sets, main),
        val_bits_per_byte=_bits_per_byte(found, sets, main),
        val_loss_by_length={
            str(length): _mean(found, sets, [cell for cell in main if cell[1] == length])
            for length in sorted({length for _, length in main})
        },
        val_loss_by_source={
            name: _mean(found, sets, [cell for cell in cells if cell[0] == name])
            for name in sets
            if name
        },
    )


Cells: TypeAlias = "list[tuple[str, int]]"
"""Names of validation sets, and lengths in them."""


def _mean(
    nats: dict[tuple[str, int], float], sets: dict[str, ValidationSet], cells: Cells
) -> float:
    """The loss per target."""
    return sum(nats[cell] for cell in cells) / sum(sets[name].targets[n] for name, n in cells)


def _bits_per_byte(
    nats: dict[tuple[str, int], float], sets: dict[str, ValidationSet], cells: Cells
) -> float | None:
    """None when the tokenizer does not say how many bytes its tokens stand for."""
    sizes = [sets[name].bytes for name, _ in cells]
    total = [size[n] for size, (_, n) in zip(sizes, cells, strict=True) if size]
    if len(total) < len(cells):
        return None
    return sum(nats[cell] for cell in cells) / log(2) / sum(total)
