from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtrain.data.curriculum_config import LongDocuments
from lmtrain.data.decompose import Decomposition, decompose
from lmtrain.data.store import Documents

BUCKETS = [1 << i for i in range(7)]

cuts = st.integers(0, 5).flatmap(lambda i: st.integers(i, 6).map(lambda j: BUCKETS[i : j + 1]))
documents = st.lists(st.integers(1, 400), max_size=20)


def lay(lengths: list[int]) -> Documents:
    """Documents one after the other, as in a store."""
    sizes = np.array(lengths, np.int64)
    return Documents(np.cumsum(sizes) - sizes, sizes)


def coverage(pieces: Decomposition, total: int) -> np.ndarray:
    """How many pieces hold the pair that begins at each position."""
    count = np.zeros(total, np.int64)
    for length, starts in pieces.buckets.items():
        np.add.at(count, starts[:, None] + np.arange(length), 1)
    return count


@given(documents, cuts)
def test_every_pair_is_in_one_piece_or_in_the_rest(lengths: list[int], cut: list[int]) -> None:
    pieces = decompose(lay(lengths), cut)
    count = coverage(pieces, sum(lengths))
    expected = np.zeros_like(count)
    for start, length in zip(*lay(lengths), strict=True):
        expected[start : start + (length - 1) // cut[0] * cut[0]] = 1
    np.testing.assert_array_equal(count, expected)
    assert pieces.kept == expected.sum()
    assert pieces.pairs == sum(length - 1 for length in lengths)


@given(documents, cuts)
def test_a_loop_over_documents_cuts_the_same(lengths: list[int], cut: list[int]) -> None:
    buckets: dict[int, list[int]] = {length: [] for length in cut}
    for start, length in zip(*lay(lengths), strict=True):
        at, left = int(start), int(length) - 1
        for piece in reversed(cut):
            while left >= piece:
                buckets[piece].append(at)
                at, left = at + piece, left - piece
    pieces = decompose(lay(lengths), cut)
    assert {length: starts.tolist() for length, starts in pieces.buckets.items()} == buckets


@given(documents, cuts)
def test_windows_cover_long_documents_whole(lengths: list[int], cut: list[int]) -> None:
    pieces = decompose(lay(lengths), cut, long_docs=LongDocuments.window)
    count = coverage(pieces, sum(lengths))
    for start, length in zip(*lay(lengths), strict=True):
        inside = count[start : start + length]
        assert inside[-1] == 0  # the last token is only ever a target
        if length - 1 > cut[-1]:
            assert (inside[:-1] >= 1).all()
    assert pieces.repeated == (count == 2).sum()
    assert count.max(initial=0) <= 2
    assert pieces.kept == (count > 0).sum()


@given(documents, cuts)
def test_cutting_at_random_loses_no_more(lengths: list[int], cut: list[int]) -> None:
    pieces = decompose(lay(lengths), cut, long_docs=LongDocuments.random)
    greedy = decompose(lay(lengths), cut)
    np.testing.assert_array_equal(coverage(pieces, sum(lengths)), coverage(greedy, sum(lengths)))
    assert pieces.kept == greedy.kept
    for starts in pieces.buckets.values():
        assert (np.diff(starts) > 0).all()
    alone = [
        decompose(
            Documents(*(part[i : i + 1] for part in lay(lengths))),
            cut,
            long_docs=LongDocuments.random,
        )
        for i in range(len(lengths))
    ]
    for length, starts in pieces.buckets.items():
        each = [one.buckets[length] for one in alone]
        assert starts.tolist() == [start for found in each for start in found.tolist()]


def test_shorter_pieces_are_more_likely_by_their_length() -> None:
    cut = [64, 128, 256, 512]
    one = Documents(np.array([7]), np.array([3_000_001]))
    pieces = decompose(one, cut, long_docs=LongDocuments.random)
    counts = np.array([len(starts) for starts in pieces.buckets.values()])
    expected = np.array([8, 4, 2, 1]) / 15 * counts.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 3 + 4 * np.sqrt(6)  # chi squared
    tokens = counts * cut
    assert tokens.max() / tokens.min() < 1.1


def test_the_share_in_longest_pieces_is_that_of_the_published_code() -> None:
    cut = [256 << i for i in range(6)]
    for length, share in ((12_000, 0.68), (20_000, 0.44), (100_000, 0.23), (1_000_000, 0.18)):
        sizes = np.full(60, length, np.int64)
        docs = Documents(np.cumsum(sizes) - sizes, sizes)
        pieces = decompose(docs, cut, long_docs=LongDocuments.random)
        assert len(pieces.buckets[8192]) * 8192 / sizes.sum() == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("longest", [1 << 16, 1 << 20])
def test_long_lengths_are_ordinary(longest: int) -> None:
    far = 1 << 33  # positions beyond 32 bits
    cut = [1 << i for i in range(6, longest.bit_length())]
    one = Documents(np.array([far]), np.array([3 * longest + 65]))
    pieces = decompose(one, cut)
    assert pieces.buckets[longest].tolist() == [far + i * longest for i in range(3)]
    assert pieces.buckets[64].tolist() == [far + 3 * longest]
    assert pieces.kept == pieces.pairs == 3 * longest + 64


def test_a_document_of_257_tokens_is_one_piece_of_256() -> None:
    pieces = decompose(lay([257]), [64, 128, 256, 512])
    assert {length: len(starts) for length, starts in pieces.buckets.items() if len(starts)} == {
        256: 1
    }


def test_it_is_vectorised() -> None:
    lengths = np.random.default_rng(0).lognormal(6.5, 1.2, 200_000).astype(np.int64) + 1
    started = time.process_time()
    decompose(Documents(np.cumsum(lengths) - lengths, lengths), [1 << i for i in range(8, 14)])
    assert time.process_time() - started < 0.5  # 0.02 s on an idle core
