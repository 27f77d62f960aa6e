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
    OddsScale,
    Randomness,
    Remainder,
    ViewName,
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
        {"remainder": Remainder.pack},
        {"long_docs": LongDocuments.random},
        {"odds_scale": OddsScale.bucket_size},
        {"name": CurriculumName.staircase_p2},
        {"name": CurriculumName.staircase_linear},
        {"name": CurriculumName.progressive, "stages": [[5000, 64]]},
        {"final_long": 0.2},
        {"name": CurriculumName.fixed, "view": ViewName.concat},
        {"name": CurriculumName.fixed, "view": ViewName.concat_masked},
        {"name": CurriculumName.fixed, "view": ViewName.best_fit},
        {"name": CurriculumName.fixed, "view": ViewName.best_fit, "length": 128},
        {"name": CurriculumName.window_warmup, "view": ViewName.concat},
        {"name": CurriculumName.window_warmup, "view": ViewName.concat, "window_start": 8},
        {"name": CurriculumName.window_warmup, "view": ViewName.concat, "window_rate": 0.5},
    ],
    ids=str,
)
def test_the_hash_changes_with_the_curriculum(store: Store, changes: dict[str, Any]) -> None:
    plan, other = make(store), make(store, replace(CURRICULUM, **changes))
    assert plan.hash != other.hash
    assert other.differences(plan.identity)


@pytest.mark.parametrize(
    "changes",
    [
        {"cycles": 3},
        {"floor": 8},
        {"length": 64},
        {"odds": [1.0]},
        {"odds": None},
        {"stages": [[5000, 64]]},
        {"window_start": 8},
        {"window_rate": 0.5},
    ],
    ids=str,
)
def test_the_hash_ignores_what_does_not_matter(store: Store, changes: dict[str, Any]) -> None:
    plan, other = make(store), make(store, replace(CURRICULUM, **changes))
    assert plan.hash == other.hash
    np.testing.assert_array_equal(plan[33].starts, other[33].starts)


def test_every_kind_of_order_has_its_own_hash(store: Store) -> None:
    fixed = {"name": CurriculumName.fixed}
    windowed = {"name": CurriculumName.window_warmup, "view": ViewName.concat}
    every: list[dict[str, Any]] = [
        *({"name": n} for n in CurriculumName if n.has_odds and n != CurriculumName.odds),
        {"name": CurriculumName.natural},
        {"name": CurriculumName.staircase_p2},
        {"name": CurriculumName.staircase_linear},
        *({"name": CurriculumName.progressive, "stages": [[5000, n]]} for n in (64, 128)),
        *({**fixed, "view": view} for view in ViewName),
        *({**windowed, "window_start": n} for n in (8, 32)),
        *({"remainder": remainder} for remainder in (Remainder.keep, Remainder.pack)),
        *({"final_long": part} for part in (0.1, 0.2)),
    ]
    hashes = {make(store, replace(CURRICULUM, **keys)).hash for keys in every}
    assert len(hashes) == len(every)


def test_the_run_length_is_in_the_hash_only_where_it_decides(store: Store) -> None:
    assert make(store, steps=50).hash == make(store, steps=80).hash == make(store).hash
    ending = replace(CURRICULUM, final_long=0.2)
    assert make(store, ending, steps=50).hash != make(store, ending, steps=80).hash


def test_the_end_of_a_run_is_from_the_longest_bucket(store: Store) -> None:
    plan = make(store, replace(CURRICULUM, final_long=0.2), steps=60)
    plain = make(store, steps=60)
    assert {plan.length(step) for step in range(48, 60)} == {256}
    assert plan.counts(60) == pytest.approx(plain.counts(60), abs=2)


def test_stages_keep_their_lengths(store: Store) -> None:
    config = replace(
        CURRICULUM, name=CurriculumName.progressive, stages=[[4 * STEP, 32], [5 * STEP, 128]]
    )
    plan = make(store, config)
    lengths = [plan.length(step) for step in range(plan.steps_per_pass)]
    assert set(lengths[:4]) == {32}
    assert 128 in lengths[4:9]
    assert 256 not in lengths[:9]
    for bucket, count in zip(plan.buckets, plan.counts(plan.steps_per_pass), strict=True):
        assert count == pytest.approx(bucket.tokens / STEP, abs=2)  # all of it, once


def test_odds_may_be_scaled_by_the_tokens_of_a_bucket(store: Store) -> None:
    plan = make(store, replace(CURRICULUM, odds_scale=OddsScale.bucket_size))
    total = sum(bucket.tokens for bucket in plan.buckets)
    expected = [2 ** (3 - i) * bucket.tokens / total for i, bucket in enumerate(plan.buckets)]
    assert plan.schedule.odds == pytest.approx(expected)


def test_packed_rests_are_the_shortest_bucket(store: Store) -> None:
    plan = make(store, replace(CURRICULUM, remainder=Remainder.pack))
    assert plan.lengths == [32, 32, 64, 128, 256]
    assert plan.schedule.odds == [16, 8, 4, 2, 1]
    assert plan.view.kept == plan.view.pairs
    assert "packed" in summarize(plan)


def test_the_summary_says_when_the_window_is_whole(store: Store) -> None:
    config = replace(CURRICULUM, name=CurriculumName.window_warmup, view=ViewName.concat_masked)
    text = summarize(make(store, config), 30)
    assert "the window is 32 tokens at first and whole from step 1,792 on" in text


def test_the_summary_says_that_a_cycle_is_cut(store: Store) -> None:
    assert "the run ends 4 steps before the end of a cycle" in summarize(make(store), 26)
    assert "before the end of a cycle" not in summarize(make(store), 30)


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
