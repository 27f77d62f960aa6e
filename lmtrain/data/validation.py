"""The validation set: pieces of documents that are never trained on, each target once."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, TypedDict, Unpack

import numpy as np
import torch

from lmtrain.data.bucket import NOWHERE, Draw, Segments
from lmtrain.data.decompose import decompose
from lmtrain.data.rows import move_row, read_row
from lmtrain.data.sources import targets_of
from lmtrain.data.store import Side

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from lmtrain.batch import Batch
    from lmtrain.data.curriculum_config import CurriculumConfig
    from lmtrain.data.sources import Corpus


class ValidationSet:
    """Pieces of the validation documents, up to a budget, in a fixed order.

    Documents are cut into all lengths from ``min_length`` to ``max_length``, longest first,
    whatever else the curriculum does with those of training, so that runs can be compared. Each
    length keeps its share of the tokens, in pieces spread evenly over the documents.

    Args:
        store: the documents.
        curriculum: the lengths.
        tokens: about how many targets to use; None uses all.

    Raises:
        ValueError: no validation document is long enough for a piece.
    """

    pieces: dict[int, NDArray[np.int64]]
    """Length to where its pieces begin, shortest first."""
    targets: dict[int, int]
    """Length to targets in pieces of this length."""

    def __init__(
        self, store: Corpus, curriculum: CurriculumConfig, tokens: int | None = None
    ) -> None:
        documents = store.documents(Side.validation)
        every = decompose(documents, curriculum.lengths)
        held = sum(length * len(starts) for length, starts in every.buckets.items())
        if not held:
            raise ValueError(
                f"data.val_fraction={store.selection.val_fraction} leaves no piece to validate on, "
                f"in {len(documents.starts)} documents: raise it, or lower curriculum.min_length"
            )
        share = 1.0 if tokens is None else min(1.0, tokens / held)
        self._store = store
        self.pieces = {
            length: _spread(starts, share)
            for length, starts in every.buckets.items()
            if len(starts)
        }
        self.targets = {
            length: targets_of(store, length) * len(starts)
            for length, starts in self.pieces.items()
        }

    @cached_property
    def bytes(self) -> dict[int, int] | None:
        """Length to bytes of text that its targets stand for; None for other tokenizers."""
        sizes = self._store.token_bytes
        if sizes is None:
            return None
        return {
            length: int(sizes[self._store.read(starts + 1, length)].sum())
            for length, starts in self.pieces.items()
        }

    def batches(self, tokens: int, **share: Unpack[Share]) -> Iterator[tuple[int, Batch]]:
        """Rows of ``tokens`` with all pieces, as `deal` gives them."""
        return deal(self._store, self.pieces, tokens, **share)


class Share(TypedDict, total=False):
    """What of the rows is read here, and for where: arguments of `deal` that are passed on."""

    rank: int
    world: int
    sequence_rank: int
    sequence_world: int
    device: torch.device | str


def deal(
    store: Corpus,
    pieces: Mapping[int, NDArray[np.int64]],
    tokens: int,
    *,
    rank: int = 0,
    world: int = 1,
    sequence_rank: int = 0,
    sequence_world: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, Batch]]:
    """Rows of the pieces that begin at ``pieces[length]``, for this rank, with their length.

    Rows are dealt to the ranks in turn, in the order of ``pieces``. Every rank gets equally many;
    what is missing at the end is filled with ignored targets. The processes that share a row get a
    span of it each.

    Raises:
        ValueError: a row would not be whole pieces, or not cut into equal spans.
    """
    longest, place = max(pieces), torch.zeros(0, device=device).device
    if tokens % longest:
        raise ValueError(f"a row of {tokens} tokens is not whole pieces of {longest}")
    for length, starts in pieces.items():
        count = tokens // length
        rounds = -(-len(starts) // (count * world))
        for row in range(rank, rounds * world, world):
            batch = read_row(
                store,
                _filled(starts[row * count : (row + 1) * count], length, count),
                sequence_rank=sequence_rank,
                sequence_world=sequence_world,
                device=place,
            )
            yield length, move_row(batch, place)


def _filled(starts: NDArray[np.int64], length: int, pieces: int) -> Draw:
    """The pieces at ``starts``, and padding up to so many pieces."""
    real, missing = Segments.of_length(starts, length), pieces - len(starts)
    fill = np.full(missing, NOWHERE), np.full(missing, length), np.full(missing, NOWHERE)
    parts = [np.concatenate(pair) for pair in zip(real, fill, strict=True)]
    return Draw(length=length, segments=Segments(*parts))


def _spread(starts: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """This share of the pieces, at least one, at even distances."""
    count = max(1, round(len(starts) * share))
    return starts[np.arange(count) * len(starts) // count]
