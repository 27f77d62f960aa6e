"""Faults of plans and loaders that other toolkits have; each test is named for its fault."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fake_store import PositionStore
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtrain.batch import IGNORED
from lmtrain.data.config import check_tokens_per_step
from lmtrain.data.curriculum import apportion, race, stairs
from lmtrain.data.curriculum_config import (
    CurriculumConfig,
    CurriculumName,
    LongDocuments,
    Randomness,
    ViewName,
)
from lmtrain.data.loader import Loader
from lmtrain.data.plan import Plan
from lmtrain.data.store import Side
from lmtrain.data.summary import summarize
from lmtrain.data.validation import ValidationSet

CURRICULUM = CurriculumConfig(min_length=8, max_length=32, cycle_steps=6)
FIXED = CurriculumConfig(name=CurriculumName.fixed, min_length=32, max_length=32)
STEP = 128


def make(store: PositionStore, config: CurriculumConfig = CURRICULUM, **changes: Any) -> Plan:
    assert config.check() == []
    return Plan.build(store, config, **{"seed": 0, "tokens_per_step": STEP, **changes})


def make_store(seed: int = 0, documents: int = 80) -> PositionStore:
    lengths = 1 + np.random.default_rng(seed).lognormal(3.2, 1.0, documents).astype(int)
    return PositionStore(lengths)


def global_batch(plan: Plan, step: int) -> tuple[int, list[int]]:
    draw = plan[step]
    return draw.length, draw.starts.tolist()


@pytest.mark.parametrize(("long_docs", "repeated"), [("greedy", 0), ("window", 62)])
def test_lengths_that_are_left_out_are_not_kept(long_docs: LongDocuments, repeated: int) -> None:
    """Of 17 targets 16 are in a piece that is left out; of 65 all but one, or with overlap all."""
    store = PositionStore([18, *[66] * 2])
    plan = make(store, replace(CURRICULUM, long_docs=long_docs))
    assert plan.lengths == [32]
    assert plan.view.kept > plan.drawn.kept == 130 - 2 * (not repeated)
    assert plan.drawn.repeated == repeated
    assert f"{plan.drawn.kept / 147:.2%} of 147 targets kept" in summarize(plan)


@pytest.mark.parametrize("longest", [1 << 16, 1 << 20])
@pytest.mark.parametrize("view", ViewName)
def test_length_65536_or_2_to_the_20_and_more_than_2_to_the_32_tokens(
    longest: int, view: ViewName
) -> None:
    begin = (1 << 33) + 5
    store = PositionStore([3 * longest + 65, 2 * longest + 1, 700, 64], begin=begin)
    config = replace(FIXED, view=view, max_length=longest)
    plan = make(store, config, tokens_per_step=longest)
    assert plan.lengths == [longest]
    assert len(plan.buckets[0]) == (6 if view == ViewName.best_fit else 5)
    with Loader(store, plan, stop=2, sequence_rank=3, sequence_world=4) as loader:
        for (batch,) in loader:
            assert len(batch.tokens) == longest // 4
            real = batch.tokens != store.end_of_text
            assert (batch.tokens[real] >= begin).all()
            inside = batch.targets != IGNORED
            steps = batch.targets[inside] - batch.tokens[inside]
            assert (steps == 1).all()


def test_many_lengths_up_to_2_to_the_20_share_a_plan() -> None:
    store = PositionStore([(1 << 21) - 31] * 3, begin=1 << 40)
    config = CurriculumConfig(min_length=32, max_length=1 << 20)
    plan = make(store, config, tokens_per_step=1 << 20)
    assert plan.view.kept == plan.view.pairs == 3 * ((1 << 21) - 32)
    assert [bucket.length for bucket in plan.view.buckets] == [1 << i for i in range(5, 21)]
    assert plan.lengths == [1 << 19, 1 << 20]  # the others hold less than a step
    assert min(global_batch(plan, 1)[1]) >= 1 << 40


@given(
    st.integers(-5, 100_000),
    st.sampled_from([1, 32, 1024]),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 12),
)
def test_batch_not_divisible(
    tokens: int, longest: int, accumulate: int, world: int, sequence: int
) -> None:
    def problems(value: int) -> list[str]:
        return check_tokens_per_step(
            value, max_length=longest, accumulate=accumulate, world=world, sequence=sequence
        )

    rows, rest = divmod(tokens, accumulate * world)
    fits = tokens > 0 and not rest and rows % longest == 0 and rows % sequence == 0
    assert bool(problems(tokens)) != fits
    for problem in problems(tokens):
        near = [int(value) for value in problem.split(": use ")[1].split(" or ")]
        assert all(problems(value) == [] for value in near)
        assert near[-1] > tokens
        assert len(near) == 1 or near[0] < tokens < near[1]


@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=8),
    st.sampled_from([CurriculumName.staircase_linear, CurriculumName.staircase_p2]),
    st.sampled_from(list(Randomness)),
)
def test_grow_linear_shares_rounded_above_supply(
    counts: list[int], name: CurriculumName, randomness: Randomness
) -> None:
    steps = stairs(CurriculumConfig(name=name), len(counts))
    assert steps
    for count, shares in zip(counts, steps, strict=True):
        parts = apportion(count, shares)
        assert sum(parts) == count
        assert min(parts) >= 0
    order = race(counts, None, randomness=randomness, key=(1,), stairs=steps)
    assert np.bincount(order, minlength=len(counts)).tolist() == counts


@settings(max_examples=15, deadline=None)
@given(
    stop=st.integers(0, 60),
    groups=st.sampled_from([1, 2, 4]),
    sequence=st.sampled_from([1, 2, 4]),
    accumulate=st.sampled_from([1, 2]),
    threads=st.integers(1, 3),
)
def test_killed_at_any_step_and_resumed_with_another_division(
    stop: int, groups: int, sequence: int, accumulate: int, threads: int
) -> None:
    accumulate = 1 if groups == 4 else accumulate
    store = make_store()
    whole, again = make(store), make(store)
    assert whole.hash == again.hash
    for rank in range(groups):
        with Loader(
            store,
            again,
            first_step=stop,
            stop=stop + 2,
            accumulate=accumulate,
            rank=rank,
            world=groups,
            sequence_rank=sequence - 1,
            sequence_world=sequence,
            threads=threads,
        ) as loader:
            for step, batches in enumerate(loader, stop):
                segments = whole[step].segments
                tokens = store.read_stretches(segments.starts, segments.lengths)
                rows = tokens.reshape(accumulate, groups, sequence, -1)[:, rank, -1]
                read = torch.stack([batch.tokens for batch in batches]).numpy()
                np.testing.assert_array_equal(read, rows)


@pytest.mark.parametrize("config", [CURRICULUM, replace(FIXED, view=ViewName.best_fit)])
def test_second_and_third_resume_and_at_the_border_of_a_cycle_or_epoch(
    config: CurriculumConfig,
) -> None:
    store = make_store()
    whole = make(store, config)
    expected = [global_batch(whole, step) for step in range(90)]
    epoch = whole.buckets[0].tokens // STEP
    for stops in ([1, 2, 3], [6, 12, 18], [epoch, epoch + 1, 2 * epoch], [5, 40, 41]):
        found: list[tuple[int, list[int]]] = []
        for stop in [*stops, 90]:
            resumed = make(store, config)
            found += [global_batch(resumed, step) for step in range(len(found), stop)]
        assert found == expected


def test_run_length_changed() -> None:
    store = make_store()
    short, long = make(store, steps=20), make(store, steps=2000)
    assert short.hash == long.hash
    assert [global_batch(short, k) for k in range(20)] == [global_batch(long, k) for k in range(20)]


def test_run_length_changed_where_the_end_is_planned_is_seen() -> None:
    config = replace(CURRICULUM, final_long=0.25)
    short, long = make(make_store(), config, steps=20), make(make_store(), config, steps=40)
    (sentence,) = long.differences(short.identity)
    assert sentence.startswith("train.steps was 20 and is 40")


def test_more_than_one_epoch_is_in_a_new_order_and_counted() -> None:
    store = make_store()
    plan = make(store, FIXED)
    (bucket,) = plan.buckets
    steps = 3 * len(bucket) * 32 // STEP + 1
    starts = [start for step in range(steps) for start in global_batch(plan, step)[1]]
    epochs = [starts[i * len(bucket) : (i + 1) * len(bucket)] for i in range(3)]
    assert all(sorted(epoch) == bucket.starts.tolist() for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    row = summarize(plan, steps).splitlines()[1].split()
    assert float(row[5]) == pytest.approx(steps * STEP / bucket.tokens, abs=0.01)


@pytest.mark.parametrize("world", [1, 2])
def test_variable_shapes_are_as_many_as_the_lengths(world: int) -> None:
    store = make_store()
    plan = make(store)
    with Loader(store, plan, stop=60, world=world, accumulate=2 // world) as loader:
        batches = [batch for micro in loader for batch in micro]
    assert {len(batch.tokens) for batch in batches} == {STEP // 2}
    assert len({id(batch.layout) for batch in batches}) == len(plan.lengths)


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 1], [1, 1, 1]])
@pytest.mark.parametrize("view", ViewName)
def test_empty_document_store_or_bucket_is_an_error_not_a_crash(
    lengths: list[int], view: ViewName
) -> None:
    with pytest.raises(ValueError, match="train.tokens_per_step=128 is more than any length"):
        make(PositionStore(lengths), replace(FIXED, view=view))


def test_an_empty_bucket_is_left_out_with_a_warning() -> None:
    plan = make(PositionStore([33, 0, 1] * 8))
    assert plan.lengths == [32]
    assert len(plan.warnings) == 2
    assert plan.warnings[0].startswith("length 8 is left out: its 0 pieces")


def test_no_document_is_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    store = PositionStore(1 + rng.lognormal(3.2, 1, 120).astype(int), held=40)
    border = int(store.documents(Side.validation).starts[0])
    for view in ViewName:
        for step in range(40):
            draw = make(store, replace(FIXED, view=view))[step]
            assert (draw.starts + draw.segments.lengths <= border).all()
    for _, batch in ValidationSet(store, CURRICULUM).batches(64):
        assert int(batch.tokens[batch.targets != IGNORED].min()) >= border


def test_ranks_of_one_sequence_group_read_one_row() -> None:
    store = make_store()
    plan = make(store)
    for world in (1, 2):
        for rank in range(world):
            spans = [
                list(
                    Loader(
                        store,
                        plan,
                        stop=8,
                        rank=rank,
                        world=world,
                        sequence_rank=part,
                        sequence_world=4,
                        threads=part % 2 + 1,
                    )
                )
                for part in range(4)
            ]
            rows = list(Loader(store, plan, stop=8, rank=rank, world=world))
            for (row,), *parts in zip(rows, *spans, strict=True):
                assert torch.equal(torch.cat([part.tokens for (part,) in parts]), row.tokens)
