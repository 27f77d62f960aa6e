"""How sources share the tokens of a run, and in which order their pieces come."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtrain.data.config import MixScope
from lmtrain.data.mix import BLOCK, PERIOD, Cell, Mix, Quotas, whole
from lmtrain.data.shares import shares

WEIGHTS = st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=12)


def normalised(weights: list[float]) -> list[float]:
    return (np.array(weights) / sum(weights)).tolist()


def make(sizes: dict[str, int], weights: list[float], *, used: int = 0) -> Mix:
    return Mix(
        cells=[Cell(source=name, pieces=size, used=used) for name, size in sizes.items()],
        quotas=Quotas.each([normalised(weights)])[0],
        seed=3,
        kind="pieces",
        length=64,
    )


def by_source(mix: Mix, pieces: np.ndarray) -> dict[str, list[int]]:
    """Pieces of each source, numbered in it, in the order in which they come."""
    ends = np.cumsum([cell.pieces for cell in mix.cells])
    number = np.searchsorted(ends, pieces, side="right")
    return {
        cell.source: (pieces[number == n] - (ends[n] - cell.pieces)).tolist()
        for n, cell in enumerate(mix.cells)
    }


@settings(max_examples=200, deadline=None)
@given(WEIGHTS)
def test_counts_stay_within_a_piece_of_the_share_and_never_decrease(weights: list[float]) -> None:
    [quotas] = Quotas.each([normalised(weights)])
    pieces = np.arange(len(quotas.table)) * BLOCK
    ideal = pieces[:, None] * np.array(normalised(weights))
    assert (quotas.table.sum(1) == pieces).all()
    assert (np.diff(quotas.table, axis=0) >= 0).all()
    assert np.abs(quotas.table - pieces[:, None] * (quotas.shares / PERIOD)).max() < 1
    assert np.abs(quotas.table - ideal)[:100].max() < 1.1  # shares are rounded to 1 / PERIOD
    assert np.abs(quotas.table - ideal).max() < 2


def test_the_table_repeats_for_ever() -> None:
    _, quotas = Quotas.each([[0.1, 0.9, 0.0], [0.5, 0.3, 0.2]])
    blocks = PERIOD // BLOCK
    assert (quotas.before(blocks) == quotas.shares).all()
    assert (quotas.before(7 * blocks + 5) == 7 * quotas.shares + quotas.before(5)).all()


@given(WEIGHTS, st.integers(1, 5000))
def test_largest_remainders_fill_up_to_the_whole(weights: list[float], total: int) -> None:
    exact = np.array(normalised(weights)) * total
    parts = whole(exact, total)
    assert parts.sum() == total
    assert np.abs(parts - exact).max() < 1


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=5),
    cuts=st.lists(st.integers(1, 9000), min_size=1, max_size=5, unique=True),
    seed=st.integers(0, 9),
)
def test_any_batches_see_the_same_order_and_counts_are_exact(
    sizes: list[int], cuts: list[int], seed: int
) -> None:
    weights = np.random.default_rng(seed).lognormal(0, 1, len(sizes)).tolist()
    mix = make({f"s{n}": size for n, size in enumerate(sizes)}, weights)
    borders = [0, *sorted(cuts)]
    parts = [mix.pieces(np.arange(first, end)) for first, end in pairwise(borders)]
    whole_order = mix.pieces(np.arange(borders[-1]))
    assert np.concatenate(parts).tolist() == whole_order.tolist()
    for end in borders:
        found = by_source(mix, whole_order[:end])
        assert [len(pieces) for pieces in found.values()] == mix.counts(end)


def test_every_piece_of_a_source_comes_once_in_an_epoch_and_then_in_another_order() -> None:
    mix = make({"a": 700, "b": 300}, [1, 3])
    found = by_source(mix, mix.pieces(np.arange(4000)))
    for name, size in (("a", 700), ("b", 300)):
        epochs = [found[name][n * size : (n + 1) * size] for n in range(len(found[name]) // size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert all(first != second for first, second in pairwise(epochs))


def test_used_pieces_come_again_only_in_the_next_epoch() -> None:
    fresh, later = make({"a": 50, "b": 50}, [1, 1]), make({"a": 50, "b": 50}, [1, 1], used=30)
    first = by_source(fresh, fresh.pieces(np.arange(200)))
    then = by_source(later, later.pieces(np.arange(100)))
    for name in "ab":
        assert then[name] == first[name][30 : 30 + len(then[name])]


def test_a_batch_holds_the_shares_nearly() -> None:
    mix = make({"a": 10**6, "b": 10**6, "c": 10**6}, [0.6, 0.3, 0.1])
    for first in (0, 1 << 14, 123_456):
        found = by_source(mix, mix.pieces(np.arange(first, first + 8192)))
        counts = [len(pieces) / 8192 for pieces in found.values()]
        assert counts == pytest.approx([0.6, 0.3, 0.1], abs=0.02)


SUPPLY = np.array([[500, 300, 200], [100, 100, 0], [10, 40, 950]])


@pytest.mark.parametrize("scope", MixScope)
def test_sources_get_their_weights_and_buckets_their_lengths(scope: MixScope) -> None:
    weights = [0.5, 0.3, 0.2]
    parts = shares(SUPPLY, weights, scope).parts
    own = np.array(weights)[:, None] * SUPPLY / SUPPLY.sum(1, keepdims=True)
    np.testing.assert_allclose(parts.sum(1), weights, atol=1e-6)
    np.testing.assert_allclose(parts.sum(0), own.sum(0), atol=1e-6)
    assert parts[1, 2] == 0  # nothing there to give
    if scope is MixScope.global_:
        np.testing.assert_allclose(parts, own)


def test_inside_a_bucket_the_weights_hold() -> None:
    full, weights = SUPPLY + 50, [0.5, 0.3, 0.2]
    found = shares(full, weights, MixScope.bucket)
    for bucket in range(3):
        assert found.within(bucket) == pytest.approx(weights)
    assert not found.limited


@settings(max_examples=60, deadline=None)
@given(
    supply=st.lists(st.lists(st.integers(0, 1000), min_size=4, max_size=4), min_size=2, max_size=4),
    room=st.floats(1.05, 4.0),
    seed=st.integers(0, 5),
)
def test_no_cell_gives_more_than_it_may(supply: list[list[int]], room: float, seed: int) -> None:
    tokens = np.array(supply) + np.eye(4, dtype=int)[: len(supply)]  # every source has some
    tokens[0] += 1  # and every bucket
    weights = normalised(np.random.default_rng(seed).uniform(0.2, 1, len(tokens)).tolist())
    longest = (tokens.sum(1) / weights).min() / room  # tokens of a run that can be met
    most = tokens / longest
    found = shares(tokens, weights, MixScope.bucket, most)
    assert (found.parts <= most + 1e-5).all()
    np.testing.assert_allclose(found.parts.sum(1), weights, atol=2e-3)
    assert found.limited or (shares(tokens, weights, MixScope.bucket).parts <= most + 1e-6).all()
