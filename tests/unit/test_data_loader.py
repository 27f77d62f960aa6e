from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from data_stores import random_texts, write_store
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtrain.data.curriculum_config import CurriculumConfig
from lmtrain.data.loader import Loader
from lmtrain.data.plan import Plan
from lmtrain.data.store import Store

STEP = 2048


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("loader") / "store", random_texts(300))


@pytest.fixture(scope="module")
def plan(store: Store) -> Plan:
    curriculum = CurriculumConfig(min_length=32, max_length=256, cycle_steps=10)
    return Plan.build(store, curriculum, seed=0, tokens_per_step=STEP)


def global_batches(
    store: Store, plan: Plan, steps: range, *, accumulate: int, world: int
) -> torch.Tensor:
    """Tokens and targets ``[step, tokens]`` of all ranks together, in the order of the rows."""
    loaders = [
        Loader(
            store,
            plan,
            first_step=steps.start,
            stop=steps.stop,
            accumulate=accumulate,
            rank=rank,
            world=world,
        )
        for rank in range(world)
    ]
    rows = []
    for batches in zip(*loaders, strict=True):
        order = [batches[rank][micro] for micro in range(accumulate) for rank in range(world)]
        rows.append(
            torch.stack(
                [torch.cat([b.tokens for b in order]), torch.cat([b.targets for b in order])]
            )
        )
    for loader in loaders:
        loader.close()
    return torch.stack(rows)


def test_targets_are_the_next_tokens(store: Store, plan: Plan) -> None:
    with Loader(store, plan, stop=25) as loader:
        for step, (batch,) in enumerate(loader):
            draw = plan[step]
            expected = store.read(draw.starts, draw.length + 1).astype(np.int64)
            assert batch.tokens.dtype == batch.targets.dtype == torch.int64
            assert batch.layout.uniform == (STEP // draw.length, draw.length)
            assert batch.layout.bounds[-1] == len(batch.tokens) == STEP
            pieces = batch.tokens.view(-1, draw.length).numpy()
            np.testing.assert_array_equal(pieces, expected[:, :-1])
            np.testing.assert_array_equal(
                batch.targets.view(-1, draw.length).numpy(), expected[:, 1:]
            )


@pytest.mark.parametrize(("accumulate", "world"), [(1, 2), (2, 1), (2, 2), (1, 4), (8, 1)])
def test_any_division_gives_the_same_global_batches(
    store: Store, plan: Plan, accumulate: int, world: int
) -> None:
    steps = range(30)
    whole = global_batches(store, plan, steps, accumulate=1, world=1)
    parts = global_batches(store, plan, steps, accumulate=accumulate, world=world)
    assert torch.equal(whole, parts)


@settings(max_examples=8, deadline=None)
@given(stops=st.lists(st.integers(0, 40), max_size=3))
def test_an_interrupted_run_reads_what_an_uninterrupted_one_does(
    store: Store, plan: Plan, stops: list[int]
) -> None:
    whole = global_batches(store, plan, range(40), accumulate=1, world=1)
    borders = [0, *sorted(stops), 40]
    worlds = [1, 2, 4, 1]
    parts = [
        global_batches(store, plan, range(a, b), accumulate=1, world=world)
        for a, b, world in zip(borders, borders[1:], worlds, strict=False)
        if a < b
    ]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(("prefetch", "threads"), [(0, 1), (1, 1), (7, 3)])
def test_reading_ahead_changes_nothing(
    store: Store, plan: Plan, prefetch: int, threads: int
) -> None:
    with Loader(store, plan, stop=20, prefetch=prefetch, threads=threads) as loader:
        read = [batch.tokens for (batch,) in loader]
    with Loader(store, plan, stop=20) as loader:
        assert all(torch.equal(a, batch.tokens) for a, (batch,) in zip(read, loader, strict=True))


def test_layouts_are_shared_between_steps(store: Store, plan: Plan) -> None:
    with Loader(store, plan, stop=30) as loader:
        layouts = {batch.layout.bounds[1]: {id(batch.layout)} for (batch,) in loader}
        assert len(layouts) > 1
        assert all(id(batch.layout) in layouts[batch.layout.bounds[1]] for (batch,) in loader)


def test_a_row_must_be_whole_pieces(store: Store, plan: Plan) -> None:
    with pytest.raises(
        ValueError, match="train.tokens_per_step=2048 does not divide by .* use 2304"
    ):
        Loader(store, plan, accumulate=3, world=3)


class Broken(Store):
    """A store whose disk fails after some reads."""

    reads = 0

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        self.reads += 1
        if self.reads > 3:
            raise OSError("the disk is gone")
        return super().read(starts, length)


def test_an_error_while_reading_ahead_reaches_the_step(store: Store, plan: Plan) -> None:
    with Loader(Broken(store.folder), plan, stop=20) as loader:
        steps = iter(loader)
        for _ in range(3):
            next(steps)
        with pytest.raises(OSError, match="the disk is gone"):
            next(steps)


def test_it_reads_ahead_no_further_than_asked(store: Store, plan: Plan) -> None:
    broken = Broken(store.folder)
    broken.reads = -1000
    with Loader(broken, plan, prefetch=3) as loader:
        next(iter(loader))
        time.sleep(0.1)
    assert broken.reads == -1000 + 4


def test_closing_ends_the_threads(store: Store, plan: Plan) -> None:
    def readers() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name.startswith("lmtrain-loader")]

    before = len(readers())
    with Loader(store, plan, threads=2) as loader:  # without an end
        for _, _batches in zip(range(3), loader, strict=False):
            assert loader.wait_seconds >= 0
        assert len(readers()) > before
    assert len(readers()) == before


def test_it_is_fast(store: Store) -> None:
    curriculum = CurriculumConfig(min_length=32, max_length=256)
    plan = Plan.build(store, curriculum, seed=0, tokens_per_step=1 << 14)
    with Loader(store, plan, stop=100) as loader:
        started = time.process_time()
        tokens = sum(len(batch.tokens) for (batch,) in loader)
    assert tokens / (time.process_time() - started) > 2e6  # an idle core reads ten times as fast


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_arrive_on_the_device(store: Store, plan: Plan) -> None:
    with Loader(store, plan, stop=20, device="cuda") as there, Loader(store, plan, stop=20) as here:
        for (a,), (b,) in zip(there, here, strict=True):
            assert a.tokens.is_cuda
            assert a.layout.offsets.is_cuda
            assert torch.equal(a.tokens.cpu(), b.tokens)
            assert torch.equal(a.targets.cpu(), b.targets)


@pytest.mark.parametrize(("world", "sequence"), [(1, 2), (1, 8), (2, 4), (4, 2)])
def test_processes_that_share_a_row_read_its_spans(
    store: Store, plan: Plan, world: int, sequence: int
) -> None:
    for rank in range(world):
        rows = Loader(store, plan, stop=20, rank=rank, world=world)
        spans = [
            Loader(
                store,
                plan,
                stop=20,
                rank=rank,
                world=world,
                sequence_rank=part,
                sequence_world=sequence,
            )
            for part in range(sequence)
        ]
        for (row,), *parts in zip(rows, *spans, strict=True):
            batches = [batch for (batch,) in parts]
            assert torch.equal(torch.cat([b.tokens for b in batches]), row.tokens)
            assert torch.equal(torch.cat([b.targets for b in batches]), row.targets)
            layouts = [row.layout.shard(part, sequence) for part in range(sequence)]
            assert [b.layout for b in batches] == layouts
