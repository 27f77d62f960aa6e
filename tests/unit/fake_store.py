"""A store without tokens, as large as wanted: the token at a position is the position."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmtrain.data.store import Documents, Selection, Side, Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

END = -7
"""Token of padding, which no position is."""


class PositionStore(Store):
    """Documents one after the other; the ``held`` last ones validate.

    Args:
        lengths: of the documents, in tokens.
        held: documents that validate.
        begin: position of the first.
    """

    def __init__(
        self, lengths: Sequence[int] | NDArray[Any], *, held: int = 0, begin: int = 0
    ) -> None:
        sizes = np.array(lengths, np.int64)
        every = Documents(begin + np.cumsum(sizes) - sizes, sizes)
        count = len(sizes) - held
        self.sides = {
            Side.train: Documents(*(part[:count] for part in every)),
            Side.validation: Documents(*(part[count:] for part in every)),
        }
        self.selection, self.folder = Selection(), Path("positions")

    @property
    def identity(self) -> dict[str, Any]:
        return {"data.source": [part.tolist() for part in self.sides[Side.train]]}

    @property
    def end_of_text(self) -> int:
        return END

    def documents(self, side: Side) -> Documents:
        return self.sides[side]

    def read(self, starts: NDArray[np.int64], length: int) -> NDArray[Any]:
        return starts[:, None] + np.arange(length)

    def read_stretches(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[Any]:
        begins = np.cumsum(lengths) - lengths
        return np.repeat(starts - begins, lengths) + np.arange(lengths.sum())
