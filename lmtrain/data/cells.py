"""Cells: the pieces of every bucket, by the source that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from lmtrain.data.bucket import NOWHERE, Bucket
from lmtrain.data.fingerprint import fingerprint
from lmtrain.data.sources import Corpus, Sources
from lmtrain.data.store import Side
from lmtrain.data.tasks.corpus import TaskCorpus
from lmtrain.data.views import View, view

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lmtrain.data.curriculum_config import CurriculumConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Supply:
    """The views of all sources, laid together bucket by bucket."""

    view: View
    """Pieces of a bucket stand source by source."""
    pieces: list[list[int]]
    """Pieces of each source in each bucket: ``[buckets][sources]``."""

    @classmethod
    def of(cls, data: Corpus, curriculum: CurriculumConfig) -> Supply:
        """The training documents of ``data``, cut as the curriculum wants: each source alone."""
        if not isinstance(data, Sources):
            only = view(data.documents(Side.train), curriculum)
            if isinstance(data, TaskCorpus):
                asked = [replace(each, answers=data.targets(each.length)) for each in only.buckets]
                pairs = sum(each.all_targets for each in asked)
                only = replace(only, buckets=asked, pairs=pairs)
            return cls(view=only, pieces=[[len(bucket)] for bucket in only.buckets])
        views = [view(store.documents(Side.train), curriculum) for store in data.stores.values()]
        found = [{(b.length, b.kind): b for b in each.buckets} for each in views]
        keys = sorted({key for buckets in found for key in buckets})
        together = [
            joined([(b[key], at) for b, at in zip(found, data.begins, strict=True) if key in b])
            for key in keys
        ]
        rest = [field.name for field in fields(View) if field.name != "buckets"]
        return cls(
            view=View(
                buckets=together,
                **{name: sum(getattr(each, name) for each in views) for name in rest},
            ),
            pieces=[[len(b[key]) if key in b else 0 for b in found] for key in keys],
        )


def joined(parts: Sequence[tuple[Bucket, int]]) -> Bucket:
    """The pieces of buckets of one length and kind in turn, each moved by so many positions."""
    starts = np.concatenate([_moved(bucket.starts, by) for bucket, by in parts])
    packings = [(bucket.packing, by) for bucket, by in parts if bucket.packing is not None]
    if not packings:
        return replace(parts[0][0], starts=starts)
    assert len(packings) == len(parts)
    ends = np.cumsum([len(packing.lengths) for packing, _ in packings])
    before = [0, *ends[:-1].tolist()]
    first = [p.first[:-1] + at for (p, _), at in zip(packings, before, strict=True)]
    packing = replace(
        packings[0][0],
        first=np.concatenate([*first, ends[-1:]]),
        lengths=np.concatenate([p.lengths for p, _ in packings]),
        labels=np.concatenate([_moved(p.labels, by) for p, by in packings]),
        targets=np.concatenate([p.targets for p, _ in packings]),
    )
    return replace(parts[0][0], starts=starts, packing=packing)


def _moved(positions: NDArray[np.int64], by: int) -> NDArray[np.int64]:
    return np.where(positions == NOWHERE, NOWHERE, positions + by) if by else positions


def cell_fingerprints(
    sources: Mapping[str, int], buckets: Sequence[Bucket], pieces: Sequence[Sequence[int]]
) -> dict[str, dict[str, int]]:
    """What tells the pieces of each cell from others, by source and bucket; see `begins`."""
    found: dict[str, dict[str, int]] = {name: {} for name in sources}
    for bucket, counts in zip(buckets, pieces, strict=True):
        ends = np.cumsum(counts).tolist()
        for (name, begin), count, end in zip(sources.items(), counts, ends, strict=True):
            found[name][bucket_name(bucket)] = _fingerprint(bucket, end - count, end, begin)
    return found


def begins(data: Corpus) -> dict[str, int]:
    """Where the positions of each source begin, by name; a single store has no name."""
    if isinstance(data, Sources):
        return dict(zip(data.names, data.begins, strict=True))
    return {"": 0}


def bucket_name(bucket: Bucket) -> str:
    """What tells a bucket from the others of a plan."""
    return f"{bucket.kind} of {bucket.length}"


def _fingerprint(bucket: Bucket, first: int, stop: int, begin: int) -> int:
    """A hash over the pieces ``[first, stop)``, whose source begins at position ``begin``."""
    if bucket.packing is None:
        return fingerprint(bucket.starts[first:stop] - begin)
    packing = bucket.packing
    here = slice(int(packing.first[first]), int(packing.first[stop]))
    starts, labels = (_moved(at[here], -begin) for at in (bucket.starts, packing.labels))
    return fingerprint(packing.first[first : stop + 1] - here.start, starts, labels)
