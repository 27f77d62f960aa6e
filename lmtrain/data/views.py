"""Views: the documents of a store as buckets of pieces, without moving a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lmtrain.data.bucket import Bucket
from lmtrain.data.curriculum_config import CurriculumName
from lmtrain.data.decompose import decompose

if TYPE_CHECKING:
    from lmtrain.data.curriculum_config import CurriculumConfig
    from lmtrain.data.store import Documents


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """Buckets, shortest first, and what became of the targets of the documents."""

    buckets: list[Bucket]
    pairs: int
    """Targets in the documents."""
    repeated: int = 0
    """Targets that lie in two pieces."""

    @property
    def kept(self) -> int:
        """Targets that lie in a piece, each counted once; the others are dropped."""
        return sum(bucket.targets(np.arange(len(bucket))) for bucket in self.buckets) - (
            self.repeated
        )


def view(documents: Documents, curriculum: CurriculumConfig) -> View:
    """The documents as the curriculum wants them."""
    every = decompose(documents, drawn_lengths(curriculum), long_docs=curriculum.long_docs)
    return View(
        buckets=[Bucket(length=n, starts=starts) for n, starts in every.buckets.items()],
        pairs=every.pairs,
        repeated=every.repeated,
    )


def drawn_lengths(curriculum: CurriculumConfig) -> list[int]:
    """Lengths that training documents are cut into, shortest first."""
    if curriculum.name == CurriculumName.fixed:
        return [curriculum.length or curriculum.max_length]
    return curriculum.lengths
