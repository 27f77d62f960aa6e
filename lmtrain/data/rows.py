"""Rows: pieces laid side by side, as a batch."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from lmtrain.batch import IGNORED, Batch
from lmtrain.data.bucket import NOWHERE
from lmtrain.data.tasks.corpus import TaskCorpus
from lmtrain.layout import SequenceLayout

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray
    from torch import Tensor

    from lmtrain.data.bucket import Draw, Segments
    from lmtrain.data.sources import Corpus, Sources
    from lmtrain.data.store import Store

CPU = torch.device("cpu")


def read_row(
    store: Corpus,
    row: Draw,
    *,
    sequence_rank: int = 0,
    sequence_world: int = 1,
    device: torch.device = CPU,
) -> Batch:
    """A sequence rank's span of a row: tokens in host memory, and the layout for ``device``.

    The tokens are pinned for CUDA. Only the span is read, and one more token for each segment of
    it: a target.

    Raises:
        ValueError: the row does not cut into ``sequence_world`` equal spans.
    """
    layout = _layout(row, sequence_rank, sequence_world, device)
    span = row.segments if sequence_world == 1 else row.segments.cut(layout.start, layout.stop)
    tokens, targets = _pairs(store, span)
    if device.type == "cuda":
        tokens, targets = tokens.pin_memory(), targets.pin_memory()
    return Batch(tokens, targets, layout)


def move_row(batch: Batch, device: torch.device) -> Batch:
    """The same row with its tokens on ``device``, where its layout is already."""
    tokens = batch.tokens.to(device, non_blocking=True)
    return Batch(tokens, batch.targets.to(device, non_blocking=True), batch.layout)


def _pairs(store: Corpus, span: Segments) -> tuple[Tensor, Tensor]:
    """Tokens and their targets."""
    if isinstance(store, TaskCorpus):
        tokens, targets = store.pairs(span)
        return _flat(tokens), _flat(targets)
    return _equal(store, span) if _is_equal(span) else _ragged(store, span)


def _is_equal(span: Segments) -> bool:
    """Whether all segments have one length and lie inside their documents."""
    inside = (span.starts != NOWHERE) & (span.labels == span.starts + span.lengths)
    return bool((span.lengths == span.lengths[0]).all() and inside.all())


def _equal(store: Store | Sources, span: Segments) -> tuple[Tensor, Tensor]:
    """Tokens and targets, read in one go."""
    pieces = store.read(span.starts, int(span.lengths[0]) + 1)
    return _flat(pieces[:, :-1]), _flat(pieces[:, 1:])


def _ragged(store: Store | Sources, span: Segments) -> tuple[Tensor, Tensor]:
    """Tokens and targets, read segment by segment."""
    padding = span.starts == NOWHERE
    tokens = np.full(int(span.lengths.sum()), store.end_of_text, np.int64)
    real = np.repeat(~padding, span.lengths) if padding.any() else slice(None)
    tokens[real] = store.read_stretches(span.starts[~padding], span.lengths[~padding])
    targets = np.full_like(tokens, IGNORED)
    targets[:-1] = tokens[1:]
    last, known = np.cumsum(span.lengths) - 1, span.labels != NOWHERE
    targets[last] = IGNORED
    targets[last[known]] = store.read(span.labels[known], 1)[:, 0]
    if padding.any():
        targets[~real] = IGNORED  # pyright: ignore[reportOperatorIssue]
    return torch.from_numpy(tokens), torch.from_numpy(targets)  # pyright: ignore[reportUnknownMemberType]


def _flat(pieces: NDArray[Any]) -> Tensor:
    return torch.from_numpy(pieces.astype(np.int64).reshape(-1))  # pyright: ignore[reportUnknownMemberType]


def _layout(row: Draw, rank: int, world: int, device: torch.device) -> SequenceLayout:
    """The documents of the row; those of one length are common, and cached."""
    length = _one_length(row)
    if length:
        return _equal_documents(row.tokens, length, rank, world, device)
    bounds = [row.segments.begins] if not row.joined else []
    if row.window:
        inside = np.arange(0, row.length, row.window)
        bounds.append((np.arange(0, row.tokens, row.length)[:, None] + inside).reshape(-1))
    every: list[int] = np.unique(np.concatenate(bounds)).tolist()
    return SequenceLayout.whole([*every, row.tokens]).shard(rank, world).to(device)


def _one_length(row: Draw) -> int | None:
    """The length of all documents of the row; None where they differ."""
    lengths, window = row.segments.lengths, row.window or row.length
    length = row.length if row.joined else int(lengths[0])
    if not row.joined and (lengths != length).any():
        return None
    if window >= row.length:
        return length
    return window if length == row.length and length % window == 0 else None


@lru_cache(maxsize=64)
def _equal_documents(
    tokens: int, length: int, rank: int, world: int, device: torch.device
) -> SequenceLayout:
    """The layout of a row of documents of one length; cached with its tensors."""
    return SequenceLayout.whole(range(0, tokens + 1, length)).shard(rank, world).to(device)
