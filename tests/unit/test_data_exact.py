"""What every process reads together, for every division of the work."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from fake_store import PositionStore
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtrain.batch import IGNORED, Batch
from lmtrain.data.curriculum_config import (
    CurriculumConfig,
    CurriculumName,
    LongDocuments,
    Remainder,
    ViewName,
)
from lmtrain.data.loader import Loader
from lmtrain.data.plan import Plan
from lmtrain.data.store import Side

STEP, LONGEST = 256, 32
DIVISIONS = list(product((1, 2, 4, 8), (1, 2, 4, 8)))


def one_length(**keys: Any) -> CurriculumConfig:
    return CurriculumConfig(
        name=CurriculumName.fixed, min_length=LONGEST, max_length=LONGEST, **keys
    )


CURRICULA = [
    CurriculumConfig(min_length=8, max_length=LONGEST, cycle_steps=5, remainder=Remainder.pack),
    CurriculumConfig(
        name=CurriculumName.staircase_p2,
        min_length=8,
        max_length=LONGEST,
        cycle_steps=9,
        long_docs=LongDocuments.random,
    ),
    one_length(view=ViewName.concat),
    one_length(view=ViewName.concat_masked),
    one_length(view=ViewName.best_fit),
    CurriculumConfig(
        name=CurriculumName.window_warmup,
        view=ViewName.concat_masked,
        min_length=LONGEST,
        max_length=LONGEST,
        window_start=3,
        window_rate=0.5,
    ),
]


def name(config: CurriculumConfig) -> str:
    return f"{config.name}-{config.view}"


def make_store(seed: int = 0, documents: int = 60) -> PositionStore:
    lengths = 1 + np.random.default_rng(seed).lognormal(3.2, 1.0, documents).astype(int)
    return PositionStore(lengths)


def make(store: PositionStore, config: CurriculumConfig, **changes: Any) -> Plan:
    assert config.check() == []
    return Plan.build(store, config, **{"seed": 3, "tokens_per_step": STEP, **changes})


def read(
    store: PositionStore,
    plan: Plan,
    first: int,
    stop: int,
    *,
    groups: int = 1,
    sequence: int = 1,
    accumulate: int = 1,
    threads: int = 1,
) -> list[torch.Tensor]:
    """For each step the tokens and targets ``[2, STEP]`` of all processes, in order of the rows."""
    loaders = [
        [
            Loader(
                store,
                plan,
                first_step=first,
                stop=stop,
                accumulate=accumulate,
                rank=group,
                world=groups,
                sequence_rank=part,
                sequence_world=sequence,
                prefetch=threads - 1,
                threads=threads,
            )
            for part in range(sequence)
        ]
        for group in range(groups)
    ]
    steps: list[torch.Tensor] = []
    for batches in zip(*(each for group in loaders for each in group), strict=True):
        table = [batches[g * sequence : (g + 1) * sequence] for g in range(groups)]
        rows = [
            [part[micro] for part in table[g]] for micro in range(accumulate) for g in range(groups)
        ]
        for row in rows:
            check_spans(row)
        spans = [span for row in rows for span in row]
        steps.append(
            torch.stack(
                [torch.cat([s.tokens for s in spans]), torch.cat([s.targets for s in spans])]
            )
        )
    for group in loaders:
        for loader in group:
            loader.close()
    return steps


def check_spans(row: list[Batch]) -> None:
    """The processes that share a row know the same documents, and each its own span of them."""
    first = row[0].layout
    for part, span in enumerate(row):
        assert span.layout.bounds == first.bounds
        assert span.layout.start == part * len(span.tokens)
        assert len(span.layout) == len(span.tokens) == len(span.targets)
    assert first.bounds[-1] == sum(len(span.tokens) for span in row)


@pytest.mark.parametrize("config", CURRICULA, ids=name)
def test_every_division_reads_the_same_global_batches(config: CurriculumConfig) -> None:
    store = make_store()
    plan = make(store, config)
    whole = read(store, plan, 0, 3)
    for groups, sequence in DIVISIONS if config in CURRICULA[::3] else DIVISIONS[1::4]:
        parts = read(store, plan, 0, 3, groups=groups, sequence=sequence)
        assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    for accumulate, threads in ((8, 1), (2, 3)):
        parts = read(store, plan, 0, 3, accumulate=accumulate, threads=threads, sequence=2)
        assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


@pytest.mark.parametrize("config", CURRICULA, ids=name)
def test_targets_are_counted_exactly(config: CurriculumConfig) -> None:
    store = make_store()
    plan = make(store, config)
    for step, (tokens, targets) in enumerate(read(store, plan, 0, 12)):
        real = targets != IGNORED
        assert plan.targets(step) == int(real.sum())
        assert plan.length(step) == plan[step].length
        if config.view != ViewName.concat:
            assert torch.equal(tokens[real] + 1, targets[real])


def pairs(store: PositionStore) -> Counter[tuple[int, int]]:
    """Every token of the training documents with the one after it."""
    return Counter(
        (at, at + 1)
        for start, length in zip(*store.documents(Side.train), strict=True)
        for at in range(start, start + length - 1)
    )


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 1000),
    division=st.sampled_from(DIVISIONS),
    shortest=st.sampled_from([4, 8, 32]),
    long_docs=st.sampled_from(list(LongDocuments)),
    remainder=st.sampled_from(list(Remainder)),
)
def test_every_pair_is_read_once_an_epoch(
    seed: int,
    division: tuple[int, int],
    shortest: int,
    long_docs: LongDocuments,
    remainder: Remainder,
) -> None:
    store = make_store(seed)
    config = CurriculumConfig(
        min_length=shortest,
        max_length=LONGEST,
        floor=4,
        long_docs=long_docs,
        remainder=remainder,
        cycle_steps=7,
    )
    plan = make(store, config)
    steps = 2 * plan.steps_per_pass + 16
    read_pairs: dict[int, list[tuple[int, int]]] = {}
    groups, sequence = division
    for step, batch in enumerate(read(store, plan, 0, steps, groups=groups, sequence=sequence)):
        number = plan.schedule[step][0]
        read_pairs.setdefault(number, []).extend(map(tuple, batch.T.tolist()))
    seen: Counter[tuple[int, int]] = Counter()
    for number, bucket in enumerate(plan.buckets):
        assert len(read_pairs[number]) >= bucket.tokens
        epoch = [pair for pair in read_pairs[number][: bucket.tokens] if pair[1] != IGNORED]
        assert len(epoch) == bucket.all_targets
        seen.update(epoch)
    left_out = sum(b.all_targets for b in plan.view.buckets if b not in plan.buckets)
    every = pairs(store)
    assert set(seen) <= set(every)
    assert plan.view.pairs == every.total()
    assert seen.total() == plan.view.kept + plan.view.repeated - left_out
    if not left_out:
        assert len(seen) == plan.view.kept
    if remainder == Remainder.pack and not left_out:
        assert set(seen) == set(every)


@pytest.mark.parametrize("view", [v for v in ViewName if v != ViewName.decompose])
def test_packed_rows_are_read_once_an_epoch(view: ViewName) -> None:
    store = make_store(5)
    plan = make(store, one_length(view=view))
    (bucket,) = plan.buckets
    steps = -(-bucket.tokens // STEP)
    batches = torch.cat(read(store, plan, 0, steps, groups=2, sequence=4), 1)[:, : bucket.tokens]
    real = batches[1] != IGNORED
    seen = Counter(map(tuple, batches[:, real].T.tolist()))
    assert max(seen.values()) == 1
    assert len(seen) == plan.view.kept == bucket.all_targets
    inputs = Counter(batches[0].tolist())
    padding = inputs.pop(store.end_of_text, 0)
    assert padding == plan.view.padding
    assert max(inputs.values()) == 1
    if view == ViewName.best_fit:
        assert seen == pairs(store)


@settings(max_examples=6, deadline=None)
@given(
    config=st.sampled_from(CURRICULA),
    stops=st.lists(st.integers(0, 30), min_size=3, max_size=3),
    divisions=st.lists(st.sampled_from(DIVISIONS), min_size=4, max_size=4),
)
def test_interrupted_three_times_is_uninterrupted(
    config: CurriculumConfig, stops: list[int], divisions: list[tuple[int, int]]
) -> None:
    store = make_store(9)
    whole = read(store, make(store, config), 0, 30)
    borders = [0, *sorted(stops), 30]
    parts: list[torch.Tensor] = []
    for first, stop, (groups, sequence) in zip(borders, borders[1:], divisions, strict=False):
        again = make(store, config)
        parts += read(store, again, first, stop, groups=groups, sequence=sequence)
    assert len(parts) == len(whole)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_a_window_adds_borders_and_nothing_else() -> None:
    store = make_store()
    windowed = make(store, CURRICULA[-1])
    plain = make(store, one_length(view=ViewName.concat_masked))
    with Loader(store, windowed, stop=70) as ours, Loader(store, plain, stop=70) as theirs:
        for step, ((ours_row,), (row,)) in enumerate(zip(ours, theirs, strict=True)):
            assert torch.equal(ours_row.tokens, row.tokens)
            assert torch.equal(ours_row.targets, row.targets)
            width = min(LONGEST, 3 + step // 2)
            grid = {p + at for p in range(0, STEP, LONGEST) for at in range(0, LONGEST, width)}
            assert set(ours_row.layout.bounds) == set(row.layout.bounds) | grid
    assert windowed.hash != plain.hash


def test_a_window_over_documents_that_run_on_is_uniform_where_it_fits() -> None:
    store = make_store()
    config = CurriculumConfig(
        name=CurriculumName.window_warmup,
        view=ViewName.concat,
        min_length=LONGEST,
        max_length=LONGEST,
        window_start=8,
    )
    with Loader(store, make(store, config), stop=17) as loader:
        rows = [batch for (batch,) in loader]
    assert rows[0].layout.uniform == (STEP // 8, 8)
    assert rows[0].layout is rows[1].layout
    assert rows[8].layout.lengths[:4] == (9, 9, 9, 5)
