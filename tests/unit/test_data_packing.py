from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtrain.data.bucket import NOWHERE, Bucket, Segments
from lmtrain.data.curriculum_config import (
    CurriculumConfig,
    CurriculumName,
    LongDocuments,
    Remainder,
    ViewName,
)
from lmtrain.data.packing import best_fit
from lmtrain.data.store import Documents
from lmtrain.data.views import View, view

documents = st.lists(st.integers(0, 90), max_size=20)
LENGTH = 16


def lay(lengths: list[int]) -> Documents:
    """Documents in a store, with one token that is not theirs between them."""
    sizes = np.array(lengths, np.int64)
    return Documents(np.cumsum(sizes + 1) - sizes, sizes)


def packed(docs: Documents, name: ViewName) -> View:
    config = CurriculumConfig(name=CurriculumName.fixed, view=name, length=LENGTH)
    assert config.check() == []
    return view(docs, config)


def everything(bucket: Bucket) -> Segments:
    return bucket.draw(np.arange(len(bucket))).segments


def targets(segments: Segments) -> list[tuple[int, int]]:
    """Position of every token that has a target, and of the target."""
    found: list[tuple[int, int]] = []
    for start, length, label in zip(*segments, strict=True):
        if start != NOWHERE:
            found += [(at, at + 1) for at in range(start, start + length - 1)]
            found += [(int(start + length - 1), int(label))] if label != NOWHERE else []
    return found


def pairs(docs: Documents) -> list[tuple[int, int]]:
    """Position of every token with one after it in its document, and of that."""
    return [
        (at, at + 1)
        for start, length in zip(*docs, strict=True)
        for at in range(start, start + length - 1)
    ]


def check_shape(bucket: Bucket) -> None:
    """Whole pieces, targets counted, no segment empty."""
    segments = everything(bucket)
    for index in range(len(bucket)):
        piece = bucket.draw(np.array([index])).segments
        assert piece.lengths.sum() == bucket.length
        assert bucket.targets(np.array([index])) == len(targets(piece))
    assert (segments.lengths > 0).all()
    assert bucket.all_targets == len(targets(segments))
    assert bucket.padding == segments.lengths[segments.starts == NOWHERE].sum()


@given(documents)
def test_concatenated_documents_run_on(lengths: list[int]) -> None:
    docs = lay(lengths)
    (bucket,) = (found := packed(docs, ViewName.concat)).buckets
    check_shape(bucket)
    stream = [at for start, n in zip(*docs, strict=True) for at in range(start, start + n)]
    whole = len(stream) // LENGTH * LENGTH
    expected = list(pairwise(stream[: whole + 1]))
    assert sorted(targets(everything(bucket))) == expected
    assert found.kept == len(expected)
    assert found.pairs == max(0, len(stream) - 1)
    assert found.padding == 0


@given(documents)
def test_masking_changes_targets_and_borders_but_no_row(lengths: list[int]) -> None:
    docs = lay(lengths)
    (joined,), (masked,) = (
        packed(docs, name).buckets for name in (ViewName.concat, ViewName.concat_masked)
    )
    check_shape(masked)
    for a, b in zip(everything(joined)[:2], everything(masked)[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    inside = set(pairs(docs))
    assert targets(everything(masked)) == [
        pair for pair in targets(everything(joined)) if pair in inside
    ]
    index = np.arange(len(joined))
    assert joined.draw(index).joined
    assert not masked.draw(index).joined
    owner = np.searchsorted(docs.starts, everything(masked).starts, side="right") - 1
    ends = (docs.starts + docs.lengths)[owner]
    assert (everything(masked).starts + everything(masked).lengths <= ends).all()


@given(documents)
def test_best_fit_loses_no_target(lengths: list[int]) -> None:
    docs = lay(lengths)
    (bucket,) = (found := packed(docs, ViewName.best_fit)).buckets
    check_shape(bucket)
    assert sorted(targets(everything(bucket))) == pairs(docs)
    assert found.kept == found.pairs == len(pairs(docs))
    assert found.padding == bucket.tokens - found.kept


def naive(sizes: list[int], length: int) -> list[int]:
    """What best fit by falling size leaves free, one part after the other."""
    free: list[int] = []
    for size in sorted(sizes, reverse=True):
        room = [left for left in free if left >= size]
        if room:
            free.remove(min(room))
        free.append((min(room) if room else length) - size)
    return sorted(free)


@given(st.lists(st.integers(1, 24), max_size=60))
def test_best_fit_is_best_fit_by_falling_size(sizes: list[int]) -> None:
    found = best_fit(np.arange(len(sizes)) * 100, np.array(sizes, np.int64), 24)
    check_shape(found)
    free = found.length - np.array([found.targets(np.array([i])) for i in range(len(found))])
    assert sorted(free.tolist()) == naive(sizes, 24)
    assert sorted(everything(found).starts[everything(found).starts >= 0]) == [
        100 * i for i in range(len(sizes))
    ]


def test_best_fit_is_near_linear() -> None:
    sizes = np.minimum(
        np.random.default_rng(0).lognormal(6, 1.3, 300_000).astype(np.int64) + 1, 8192
    )
    started = time.process_time()
    found = best_fit(np.cumsum(sizes) - sizes, sizes, 8192)
    assert time.process_time() - started < 2  # 0.2 s on an idle core
    assert found.padding / found.tokens < 0.001


@pytest.mark.parametrize("long_docs", LongDocuments)
@given(lengths=documents)
def test_packed_rests_lose_nothing(long_docs: LongDocuments, lengths: list[int]) -> None:
    docs = lay(lengths)
    config = CurriculumConfig(
        min_length=8, max_length=32, long_docs=long_docs, remainder=Remainder.pack
    )
    found = view(docs, config)
    rests, *buckets = found.buckets
    assert [bucket.length for bucket in found.buckets] == [8, 8, 16, 32]
    check_shape(rests)
    every = [pair for bucket in [rests, *buckets] for pair in targets(everything(bucket))]
    assert sorted(set(every)) == pairs(docs)
    assert len(every) - len(set(every)) == found.repeated
    assert found.kept == found.pairs
    assert found.padding == rests.padding < 8
