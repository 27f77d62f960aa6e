from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from data_stores import random_texts, write_store

from lmtrain.data.curriculum_config import (
    CurriculumConfig,
    CurriculumName,
    LongDocuments,
    Randomness,
    Remainder,
)
from lmtrain.data.plan import Plan
from lmtrain.data.store import Selection, Side, Store
from lmtrain.data.summary import summarize

if TYPE_CHECKING:
    from pathlib import Path

CURRICULUM = CurriculumConfig(min_length=32, max_length=256, cycle_steps=10)
STEP = 1024


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("plan") / "store", random_texts(300))


def make(store: Store, curriculum: CurriculumConfig = CURRICULUM, **changes: Any) -> Plan:
    return Plan.build(store, curriculum, **{"seed": 1, "tokens_per_step": STEP, **changes})


def test_a_global_batch_is_whole_pieces_of_one_length(store: Store) -> None:
    plan = make(store)
    train = store.documents(Side.train)
    ends = train.starts + train.lengths
    for step in range(100):
        draw = plan[step]
        assert plan.length(step) == draw.length
        assert draw.length in plan.lengths
        assert len(draw.starts) * draw.length == STEP == plan.targets(step)
        document = np.searchsorted(train.starts, draw.starts, side="right") - 1
        assert (draw.starts + draw.length + 1 <= ends[document]).all()


def test_an_epoch_uses_every_piece_once_and_the_next_in_another_order(store: Store) -> None:
    plan = make(store)
    read: dict[int, list[int]] = {length: [] for length in plan.lengths}
    for step in range(3 * plan.steps_per_pass):
        draw = plan[step]
        read[draw.length] += draw.starts.tolist()
    for bucket in plan.buckets:
        size = len(bucket)
        first, second = read[bucket.length][:size], read[bucket.length][size : 2 * size]
        assert sorted(first) == sorted(second) == bucket.starts.tolist()
        assert first != second


def test_a_pass_sees_nearly_all_data(store: Store) -> None:
    plan = make(store, replace(CURRICULUM, cycle_steps=None, cycles=3))
    assert plan.schedule.cycle_steps == plan.steps_per_pass // 3
    for bucket, count in zip(plan.buckets, plan.counts(plan.steps_per_pass), strict=True):
        assert count == pytest.approx(bucket.tokens / STEP, abs=2)


def test_a_step_is_the_same_however_it_is_reached(store: Store) -> None:
    forward = make(store)
    for step in range(200):
        forward[step]
    for step in (199, 0, 57, 10, 9):
        fresh, known = make(store)[step], forward[step]
        assert fresh.length == known.length
        np.testing.assert_array_equal(fresh.starts, known.starts)


def test_skipped_steps_are_left_out(store: Store) -> None:
    plan, skipping = make(store), make(store, skip_steps=[[3, 5], [8, 20]])
    order = [0, 1, 2, 5, 6, 7, 20, 21, 22]
    for step, planned in enumerate(order):
        np.testing.assert_array_equal(skipping[step].starts, plan[planned].starts)
    assert skipping.hash == plan.hash  # skipping is how a run goes on, not another order


@pytest.mark.parametrize(
    "changes",
    [
        {"min_length": 64},
        {"max_length": 128},
        {"cycle_steps": 11},
        {"cycle_steps": None, "cycles": 2},
        {"name": CurriculumName.uniform},
        {"name": CurriculumName.natural},
        {"name": CurriculumName.fixed},
        {"name": CurriculumName.odds, "odds": [9.0, 3.0, 2.0, 1.0]},
        {"randomness": Randomness.deterministic},
        {"long_docs": LongDocuments.window},
        {"remainder": Remainder.keep},
    ],
    ids=str,
)
def test_the_hash_changes_with_the_curriculum(store: Store, changes: dict[str, Any]) -> None:
    plan, other = make(store), make(store, replace(CURRICULUM, **changes))
    assert plan.hash != other.hash
    assert other.differences(plan.identity)


@pytest.mark.parametrize(
    "changes",
    [{"cycles": 3}, {"floor": 8}, {"length": 64}, {"odds": [1.0]}, {"odds": None}],
    ids=str,
)
def test_the_hash_ignores_what_does_not_matter(store: Store, changes: dict[str, Any]) -> None:
    plan, other = make(store), make(store, replace(CURRICULUM, **changes))
    assert plan.hash == other.hash
    np.testing.assert_array_equal(plan[33].starts, other[33].starts)


def test_the_hash_changes_with_seed_step_and_data(store: Store, tmp_path: Path) -> None:
    hashes = {
        make(store).hash,
        make(store, seed=2).hash,
        make(store, tokens_per_step=2048).hash,
        make(Store(store.folder, Selection(val_fraction=0.3))).hash,
        make(Store(store.folder, Selection(val_fraction=0.2, max_documents=250))).hash,
        make(write_store(tmp_path / "other", random_texts(300, seed=1))).hash,
    }
    assert len(hashes) == 6
    moved = write_store(tmp_path / "moved", random_texts(300))
    assert make(moved).hash == make(store).hash


def test_a_difference_names_the_key(store: Store) -> None:
    saved = json.loads(json.dumps(make(store).identity))
    assert make(store).differences(saved) == []
    (sentence,) = make(store, seed=7).differences(saved)
    assert sentence.startswith("run.seed was 1 and is 7")


def test_a_bucket_below_one_batch_is_left_out_with_a_warning(store: Store) -> None:
    plan = make(store, replace(CURRICULUM, max_length=4096))  # the longest text has 3001 tokens
    (warning,) = plan.warnings
    assert plan.lengths == [32, 64, 128, 256, 512, 1024, 2048]
    assert warning.startswith("length 4096 is left out: its 0 pieces ")
    assert warning in summarize(plan)


def test_odds_belong_to_their_lengths_when_a_bucket_is_left_out(store: Store) -> None:
    plan = make(store, tokens_per_step=8192)
    every = {32: 8, 64: 4, 128: 2, 256: 1}
    assert 1 <= len(plan.lengths) < 4
    assert plan.lengths[0] > 32
    assert plan.schedule.odds == [every[length] for length in plan.lengths]


def test_no_bucket_with_a_batch_is_an_error(store: Store) -> None:
    with pytest.raises(ValueError, match="train.tokens_per_step=67108864 is more than any length"):
        make(store, tokens_per_step=1 << 26)


def test_a_fixed_length_takes_all_it_can_from_each_document(store: Store) -> None:
    plan = make(store, replace(CURRICULUM, name=CurriculumName.fixed, length=64))
    assert plan.lengths == [64]
    pairs = store.documents(Side.train).lengths - 1
    assert len(plan.buckets[0]) == (pairs // 64).sum()


def test_the_summary_counts_the_run(store: Store) -> None:
    plan = make(store)
    table = summarize(plan, 40).splitlines()
    steps = [int(line.split()[3]) for line in table[1:5]]
    assert sum(steps) == 40
    assert "targets kept" in table[6]
