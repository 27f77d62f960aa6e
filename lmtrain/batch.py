"""Batch: the only thing that crosses from the data to the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from torch import Tensor

from lmtrain.layout import SequenceLayout

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""Target of a token that carries no loss."""


@dataclass(frozen=True)
class Batch:
    """This rank's span of one packed row.

    ``tokens`` and ``targets`` are ``[t]`` int64; ``targets[i]`` is the token after ``tokens[i]`` in
    its document, or ``IGNORED``. Shifting happened when the row was cut: the model never shifts.
    """

    tokens: Tensor
    targets: Tensor
    layout: SequenceLayout

    def to(self, device: torch.device | str) -> Self:
        """The same batch with its tensors on ``device``."""
        return type(self)(
            self.tokens.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
            self.layout.to(device),
        )
