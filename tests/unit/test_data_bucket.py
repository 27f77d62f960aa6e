from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from data_stores import random_texts, write_store
from hypothesis import given
from hypothesis import strategies as st

from lmtrain.batch import IGNORED
from lmtrain.data.bucket import NOWHERE, Bucket, Draw, Packing, Segments
from lmtrain.data.rows import read_row

if TYPE_CHECKING:
    from lmtrain.data.store import Store

lengths = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("bucket") / "store"
    return write_store(folder, random_texts(20), shard_tokens=2000)


def segments(sizes: list[int], kinds: np.random.Generator) -> Segments:
    """Segments of these sizes: some padding, some whose last target is elsewhere or missing."""
    count = np.array(sizes, np.int64)
    starts = kinds.integers(0, 1000, len(count))
    labels = np.where(kinds.random(len(count)) < 0.4, starts + count, starts // 2)
    labels = np.where(kinds.random(len(count)) < 0.3, NOWHERE, labels)
    padding = kinds.random(len(count)) < 0.2
    return Segments(np.where(padding, NOWHERE, starts), count, np.where(padding, NOWHERE, labels))


def pairs(part: Segments) -> list[tuple[int, int]]:
    """Position of each token and of its target."""
    found: list[tuple[int, int]] = []
    for start, length, label in zip(*part, strict=True):
        last = [int(label)]
        found += (
            zip(
                range(start, start + length),
                [*range(start + 1, start + length), *last],
                strict=True,
            )
            if start != NOWHERE
            else [(NOWHERE, NOWHERE)] * int(length)
        )
    return found


@given(lengths, st.integers(0, 99), st.data())
def test_a_cut_is_the_same_stretch_of_tokens(
    sizes: list[int], seed: int, data: st.DataObject
) -> None:
    whole = segments(sizes, np.random.default_rng(seed))
    first = data.draw(st.integers(0, sum(sizes) - 1))
    stop = data.draw(st.integers(first + 1, sum(sizes)))
    part = whole.cut(first, stop)
    assert pairs(part) == pairs(whole)[first:stop]
    assert part.lengths.min() > 0
    assert part.targets.sum() == sum(label != NOWHERE for _, label in pairs(part))


@given(lengths, st.integers(0, 99))
def test_a_row_reads_what_its_segments_say(store: Store, sizes: list[int], seed: int) -> None:
    drawn = segments(sizes, np.random.default_rng(seed))
    batch = read_row(store, Draw(length=sum(sizes), segments=drawn))
    text = store.read_stretches(np.array([0]), np.array([1020])).astype(np.int64)
    expected = [
        (store.end_of_text if at == NOWHERE else text[at], IGNORED if to == NOWHERE else text[to])
        for at, to in pairs(drawn)
    ]
    assert list(zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True)) == expected
    assert batch.layout.lengths == tuple(sizes)
    joined = read_row(store, Draw(length=sum(sizes), segments=drawn, joined=True))
    assert joined.layout.lengths == (sum(sizes),)
    assert torch.equal(joined.targets, batch.targets)


@given(st.lists(lengths, min_size=1, max_size=5), st.data())
def test_a_draw_lays_pieces_side_by_side(sizes: list[list[int]], data: st.DataObject) -> None:
    flat = segments([n for piece in sizes for n in piece], np.random.default_rng(0))
    first = np.cumsum([0, *map(len, sizes)])
    targets = np.add.reduceat(flat.targets, first[:-1])
    packing = Packing(first=first, lengths=flat.lengths, labels=flat.labels, targets=targets)
    bucket = Bucket(length=100, starts=flat.starts, packing=packing)
    index = np.array(data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1)))
    chosen = [Segments(*(part[first[i] : first[i + 1]] for part in flat)) for i in index]
    assert pairs(bucket.draw(index).segments) == [pair for part in chosen for pair in pairs(part)]
    assert bucket.targets(index) == sum(part.targets.sum() for part in chosen)


def test_stretches_may_lie_in_any_shard(store: Store) -> None:
    assert len(store.manifest.shards) > 2
    ends = np.cumsum([shard.tokens for shard in store.manifest.shards])
    starts, sizes = np.array([*(ends[:-1]), 0, *(ends - 7)]), 7
    flat = store.read_stretches(starts, np.full(len(starts), sizes))
    np.testing.assert_array_equal(flat.reshape(-1, sizes), store.read(starts, sizes))
