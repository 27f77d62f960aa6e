"""SequenceLayout describes spans of packed rows exactly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmtrain.layout import SequenceLayout

rows = st.lists(st.integers(1, 20), min_size=1, max_size=12)


@given(rows, st.data())
def test_every_span_agrees_with_the_row(lengths: list[int], data: st.DataObject) -> None:
    row = SequenceLayout.of_lengths(lengths)
    start = data.draw(st.integers(0, len(row) - 1))
    stop = data.draw(st.integers(start + 1, len(row)))
    span = SequenceLayout(row.bounds, start, stop)
    document = [d for d, n in enumerate(lengths) for _ in range(n)]
    position = [p for n in lengths for p in range(n)]
    assert span.document.tolist() == document[start:stop]
    assert span.position.tolist() == position[start:stop]
    assert span.opens.tolist() == [p == 0 for p in position[start:stop]]
    assert span.continues == (position[start] > 0)
    assert span.lookback(7) == min(6, position[start])
    assert sum(span.lengths) == stop - start
    assert span.offsets.tolist()[-1] == stop - start
    assert [document[start + o] for o in span.offsets.tolist()[:-1]] == sorted(
        set(document[start:stop])
    )
    if span.uniform:
        assert span.lengths == (span.uniform[1],) * span.uniform[0]


@given(st.integers(1, 8), st.integers(1, 6))
def test_shards_tile_the_row(world: int, length: int) -> None:
    row = SequenceLayout.of_lengths([1, world * length - 1])
    spans = [row.shard(rank, world) for rank in range(world)]
    assert torch.cat([s.document for s in spans]).equal(row.document)
    assert all(s.gathered() == row for s in spans)
    assert spans[-1].widened(10_000).start == 0


def test_empty_documents_are_removed() -> None:
    assert SequenceLayout.of_lengths([0, 3, 0, 2]).bounds == (0, 3, 5)


@pytest.mark.parametrize(
    ("bounds", "start", "stop"), [((1, 4), 1, 4), ((0, 3, 3), 0, 3), ((0, 4), 0, 5), ((), 0, 0)]
)
def test_nonsense_is_refused(bounds: tuple[int, ...], start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=r"bounds|span"):
        SequenceLayout(bounds, start, stop)


def test_an_uneven_shard_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide"):
        SequenceLayout.of_lengths([7]).shard(0, 2)


def test_derived_values_are_built_once() -> None:
    layout = SequenceLayout.of_lengths([4])
    calls = []
    build = lambda _, n: calls.append(n) or n  # noqa: E731
    assert layout.derive(build, 3) == layout.derive(build, 3) == 3
    assert calls == [3]
