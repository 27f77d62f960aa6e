"""Rows: pieces of one length, laid side by side, as a batch."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from lmtrain.batch import Batch
from lmtrain.layout import SequenceLayout

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray
    from torch import Tensor

    from lmtrain.data.store import Store

CPU = torch.device("cpu")


def read_row(store: Store, starts: NDArray[np.int64], length: int, *, pin: bool = False) -> Batch:
    """The pieces of ``length`` at ``starts``, in this order, in host memory (pinned for CUDA)."""
    pieces = store.read(starts, length + 1)
    tokens, targets = _flat(pieces[:, :-1]), _flat(pieces[:, 1:])
    if pin:
        tokens, targets = tokens.pin_memory(), targets.pin_memory()
    return Batch(tokens, targets, equal_pieces(len(tokens), length, CPU))


def move_row(batch: Batch, device: torch.device) -> Batch:
    """The same row on ``device``; its layout is shared with all rows of this length there."""
    assert batch.layout.uniform
    layout = equal_pieces(len(batch.tokens), batch.layout.uniform[1], device)
    return replace(batch.to(device), layout=layout)


def _flat(pieces: NDArray[Any]) -> Tensor:
    return torch.from_numpy(pieces.astype(np.int64).reshape(-1))  # pyright: ignore[reportUnknownMemberType]


@lru_cache(maxsize=64)
def equal_pieces(tokens: int, length: int, device: torch.device) -> SequenceLayout:
    """The layout of a row of ``tokens`` that is whole pieces; cached with its tensors."""
    return SequenceLayout.whole(range(0, tokens + 1, length)).to(device)
