"""Views: the documents of a store as buckets of pieces, without moving a token.

Decomposition keeps every piece inside one document. Three views of the same store pack documents
into rows of one length instead, to compare with: documents that run on, the same rows with the
borders of documents, and whole documents packed best fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lmtrain.data.bucket import NOWHERE, Bucket, Segments
from lmtrain.data.curriculum_config import Remainder, ViewName
from lmtrain.data.decompose import decompose, rests
from lmtrain.data.packing import best_fit, run_on
from lmtrain.data.store import Documents

if TYPE_CHECKING:
    from lmtrain.data.curriculum_config import CurriculumConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """Buckets, shortest first, and what became of the targets of the documents."""

    buckets: list[Bucket]
    pairs: int
    """Targets in the documents; where they run on, one more for each border."""
    repeated: int = 0
    """Targets that lie in two pieces."""

    @cached_property
    def kept(self) -> int:
        """Targets that lie in a piece, each counted once; the others are dropped."""
        return sum(bucket.all_targets for bucket in self.buckets) - self.repeated

    @cached_property
    def padding(self) -> int:
        """Tokens of the pieces that stand for nothing."""
        return sum(bucket.padding for bucket in self.buckets)

    def only(self, buckets: list[Bucket]) -> View:
        """The view with some of its buckets; the targets of the others are dropped."""
        longest = self.buckets[-1] in buckets  # only pieces of this one share targets
        return replace(self, buckets=buckets, repeated=self.repeated if longest else 0)


def view(documents: Documents, curriculum: CurriculumConfig) -> View:
    """The documents as the curriculum wants them."""
    match curriculum.view:
        case ViewName.decompose:
            return _decomposed(documents, curriculum)
        case ViewName.concat:
            return _concatenated(documents, curriculum.drawn_lengths[0], joined=True)
        case ViewName.concat_masked:
            return _concatenated(documents, curriculum.drawn_lengths[0], joined=False)
        case ViewName.best_fit:
            return _packed(documents, curriculum.drawn_lengths[0])


def _decomposed(documents: Documents, curriculum: CurriculumConfig) -> View:
    """Pieces inside one document; with remainder=pack the rests, in a bucket of their own."""
    lengths = curriculum.drawn_lengths
    every = decompose(documents, lengths, long_docs=curriculum.long_docs)
    buckets = [Bucket(length=n, starts=starts) for n, starts in every.buckets.items()]
    if curriculum.remainder == Remainder.pack:
        starts, left = rests(documents, lengths, long_docs=curriculum.long_docs)
        parts = Segments(starts, left, starts + left)
        buckets.insert(0, run_on(parts, lengths[0], fill=True))
    return View(buckets=buckets, pairs=every.pairs, repeated=every.repeated)


def _concatenated(documents: Documents, length: int, *, joined: bool) -> View:
    """Documents in the order of the store, cut every ``length`` tokens.

    Rows are the same whether documents are ``joined`` or not. Where they are, the target of a
    document's last token is the first one of the next; else it has none.
    """
    starts, lengths = _filled(documents)
    after = np.append(starts[1:], NOWHERE)
    labels = after if joined else np.full_like(starts, NOWHERE)
    bucket = run_on(Segments(starts, lengths, labels), length, joined=joined)
    total = int(lengths.sum())
    pairs = max(0, total - 1) if joined else total - len(lengths)
    return View(buckets=[bucket], pairs=pairs)


def _packed(documents: Documents, length: int) -> View:
    """Whole documents, and those above ``length`` cut greedily, packed best fit."""
    long = decompose(documents, [length]).buckets[length]
    rest, left = rests(documents, [length])
    pairs = np.append(np.full_like(long, length), left)
    bucket = best_fit(np.append(long, rest), pairs, length)
    return View(buckets=[bucket], pairs=int(pairs.sum()))


def _filled(documents: Documents) -> Documents:
    """Those that are not empty."""
    has = documents.lengths > 0
    return Documents(documents.starts[has], documents.lengths[has])
