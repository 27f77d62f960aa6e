from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from data_stores import random_texts, write_store

from lmtrain.batch import IGNORED
from lmtrain.data.curriculum_config import CurriculumConfig, CurriculumName, LongDocuments
from lmtrain.data.decompose import decompose
from lmtrain.data.plan import Plan
from lmtrain.data.store import Selection, Side, Store
from lmtrain.data.validation import ValidationSet

CURRICULUM = CurriculumConfig(min_length=32, max_length=256)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("validation") / "store", random_texts(300))


def rows(
    validation: ValidationSet, tokens: int, world: int
) -> list[list[tuple[int, torch.Tensor]]]:
    return [
        [
            (n, torch.stack([b.tokens, b.targets]))
            for n, b in validation.batches(tokens, rank=r, world=world)
        ]
        for r in range(world)
    ]


def sums(validation: ValidationSet, tokens: int, world: int) -> dict[int, tuple[int, int]]:
    """For each length a sum that tells its (token, target) pairs from others, and their count."""
    total: Counter[int] = Counter()
    count: Counter[int] = Counter()
    for rank in rows(validation, tokens, world):
        for length, (inputs, targets) in rank:
            real = targets != IGNORED
            total[length] += int((inputs[real] * 1009 + targets[real]).pow(3).sum())
            count[length] += int(real.sum())
    return {length: (total[length], count[length]) for length in count}


@pytest.mark.parametrize("long_docs", LongDocuments)
def test_every_target_is_counted_once(store: Store, long_docs: LongDocuments) -> None:
    validation = ValidationSet(store, replace(CURRICULUM, long_docs=long_docs))
    pieces = decompose(store.documents(Side.validation), CURRICULUM.lengths)
    counts = {length: count for length, (_, count) in sums(validation, 512, 1).items()}
    assert counts == {n: n * len(s) for n, s in pieces.buckets.items()} == validation.targets
    assert sum(counts.values()) == pieces.kept


@pytest.mark.parametrize(("tokens", "world"), [(256, 1), (256, 3), (1024, 2), (512, 8)])
def test_any_world_gives_the_same_sums(store: Store, tokens: int, world: int) -> None:
    validation = ValidationSet(store, CURRICULUM, 5000)
    assert sums(validation, tokens, world) == sums(validation, 512, 1)


@pytest.mark.parametrize(("tokens", "world", "sequence"), [(256, 1, 4), (1024, 2, 8), (768, 2, 3)])
def test_processes_that_share_a_row_validate_its_spans(
    store: Store, tokens: int, world: int, sequence: int
) -> None:
    validation = ValidationSet(store, CURRICULUM, 5000)
    for rank in range(world):
        whole = validation.batches(tokens, rank=rank, world=world)
        parts = [
            validation.batches(
                tokens, rank=rank, world=world, sequence_rank=part, sequence_world=sequence
            )
            for part in range(sequence)
        ]
        for (length, row), *spans in zip(whole, *parts, strict=True):
            assert {n for n, _ in spans} == {length}
            assert torch.equal(torch.cat([b.tokens for _, b in spans]), row.tokens)
            assert torch.equal(torch.cat([b.targets for _, b in spans]), row.targets)
            shards = [row.layout.shard(part, sequence) for part in range(sequence)]
            assert [b.layout for _, b in spans] == shards


def test_ranks_take_as_many_steps_as_each_other(store: Store) -> None:
    ranks = rows(ValidationSet(store, CURRICULUM), 1024, 3)
    assert len({tuple(length for length, _ in rank) for rank in ranks}) == 1


def test_two_sets_are_the_same(store: Store) -> None:
    first, second = (rows(ValidationSet(store, CURRICULUM, 4000), 512, 1)[0] for _ in range(2))
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in zip(first, second, strict=True))


def test_a_budget_keeps_the_shares(store: Store) -> None:
    every, some = ValidationSet(store, CURRICULUM), ValidationSet(store, CURRICULUM, 5000)
    assert sum(some.targets.values()) == pytest.approx(5000, abs=600)
    share = 5000 / sum(every.targets.values())
    for length, targets in some.targets.items():
        assert targets == pytest.approx(every.targets[length] * share, abs=length)


def test_bytes_are_those_of_the_targets(store: Store) -> None:
    validation = ValidationSet(store, CURRICULUM, 5000)
    ends: Counter[int] = Counter()
    for length, batch in validation.batches(512):
        ends[length] += int((batch.targets == store.end_of_text).sum())
    expected = {length: count - ends[length] for length, count in validation.targets.items()}
    assert validation.bytes == expected  # one byte a token, none for the end of a text
    assert sum(ends.values()) > 0


def test_it_never_meets_the_training_data(store: Store) -> None:
    plan = Plan.build(store, CURRICULUM, seed=0, tokens_per_step=512)
    train = {store.read(np.array([s]), 32).tobytes() for b in plan.buckets for s in b.starts}
    for length, batch in ValidationSet(store, CURRICULUM).batches(256):
        pieces = batch.tokens.view(-1, length)[:, :32].numpy()
        real = batch.targets.view(-1, length)[:, 0] != IGNORED
        for piece in pieces[real.numpy()]:
            assert piece.astype(np.uint16).tobytes() not in train


def test_it_does_not_depend_on_the_name_of_the_curriculum(store: Store) -> None:
    fixed = CurriculumConfig(min_length=32, max_length=256, name=CurriculumName.fixed, length=64)
    assert ValidationSet(store, fixed).targets == ValidationSet(store, CURRICULUM).targets


def test_nothing_to_validate_on_is_an_error(store: Store) -> None:
    with pytest.raises(ValueError, match=r"data.val_fraction=0 leaves no piece"):
        ValidationSet(Store(store.folder, Selection(val_fraction=0)), CURRICULUM)


def test_a_row_must_be_whole_pieces(store: Store) -> None:
    with pytest.raises(ValueError, match="a row of 300 tokens is not whole pieces of 256"):
        next(ValidationSet(store, CURRICULUM).batches(300))
