"""How large recurrent states are along a row, far beyond the training length.

A model that was trained on short rows may never have learnt to forget: its states then grow or
collapse once a row is longer (Chen et al. 2024, arXiv 2410.07145).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from lmtrain.evaluate.positions import place_of
from lmtrain.evaluate.stretches import read
from lmtrain.models.mixers.base import RecurrentState
from lmtrain.models.pattern import RECURRENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from lmtrain.evaluate.subject import Subject
    from lmtrain.models.decoder import Block, Decoder, DecoderState

ROWS = 8
"""Rows that are read, at most: they differ little."""


@torch.no_grad()
def states(subject: Subject, rows: NDArray[Any], *, tokens: int) -> dict[str, Any]:
    """Root mean squares of the states ``[h, k, v]``, over ``rows``; every process calls this.

    ``by_position`` is that of all states after the last token of 0, 1, 2-3, 4-7, ...; ``by_block``
    that of each state at the end of the row, by block and letter.

    Args:
        subject: the model, with at least one recurrent block.
        rows: ``[rows, length]`` tokens, the same for every process, ``length`` a power of two.
            Each is read by one process alone, whoever else shares rows.
        tokens: read at once.
    """
    engine, model, length = subject.engine, subject.model, rows.shape[1]
    names, places = _names(model), length.bit_length()
    sums = torch.zeros(2, places, len(names), dtype=torch.float64, device=engine.device)
    for number in range(engine.rank, -(-len(rows) // engine.world) * engine.world, engine.world):
        # Parameters may be held together: who has no row left reads one that does not count.
        counts = number < len(rows)
        row = torch.from_numpy(rows[number % len(rows)].astype(np.int64)).to(engine.device)
        state = model.initial_states()
        for digits in range(places):
            for _, reached in read(model, row[state.seen : 1 << digits], tokens, state):
                state = reached
            for at, matrix in enumerate(_matrices(state)):
                sums[0, digits, at] += counts * matrix.double().square().sum()
                sums[1, digits, at] += counts * matrix.numel()
    squares, elements = engine.total(sums).cpu()
    pooled = (squares.sum(1) / elements.sum(1)).sqrt().tolist()
    last = (squares[-1] / elements[-1]).sqrt().tolist()
    return {
        "what": "states",
        "length": length,
        "by_position": {place_of(digits): rms for digits, rms in enumerate(pooled)},
        "by_block": dict(zip(names, last, strict=True)),
    }


def _names(model: Decoder) -> list[str]:
    """Of each recurrent state: block and letter, numbered where a letter stands there twice."""
    specs = [block.spec for block in cast("Sequence[Block]", model.blocks)]
    return [
        f"{number}.{letter}{side if spec.mixers.count(letter) > 1 else ''}"
        for number, spec in enumerate(specs)
        for side, letter in enumerate(spec.mixers)
        if letter in RECURRENT
    ]


def _matrices(state: DecoderState) -> list[Tensor]:
    """The recurrent states, in the order of their names."""
    every = [each for block in state.mixers for each in block]
    return [
        each.matrix
        for each in every
        if isinstance(each, RecurrentState) and each.matrix is not None
    ]
