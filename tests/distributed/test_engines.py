"""Every engine trains like one process, and goes on where another one stopped."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from engine_legs import Leg, Seen, follow
from world import run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.slow

ZERO = [["engine.kind=deepspeed", f"engine.zero={stage}"] for stage in (1, 2, 3)]
ENGINES = [
    [],
    ["engine.prefetch=2", "train.accumulate=2"],
    ["engine.replicas=2"],
    ["engine.offload=parameters"],
    ["engine.kind=ddp"],
    ["engine.kind=ddp", "train.accumulate=2"],
]
DEEPSPEED = [
    *ZERO,
    *([*zero, "train.accumulate=2"] for zero in ZERO),
    [*ZERO[1], "engine.offload=optimizer"],
    [*ZERO[2], "engine.offload=parameters"],
]
needs_deepspeed = pytest.mark.skipif(
    not find_spec("deepspeed"), reason="deepspeed is not installed: pip install '.[deepspeed]'"
)


@pytest.fixture
def overrides(tiny: list[str], tmp_path: Path) -> list[str]:
    return [*tiny, f"run.dir={tmp_path / 'run'}", "engine.device=cpu", "optim.clip=0.5"]


def check_like(seen: Sequence[Seen], expected: Seen) -> None:
    assert min(expected.norms) > 0.5, "nothing would be clipped"
    for each in seen:
        assert each.losses == pytest.approx(expected.losses, rel=1e-5)
        assert each.norms == pytest.approx(expected.norms, rel=1e-5)


def legs(overrides: list[str], engines: list[list[str]], **more: object) -> list[Leg]:
    return [Leg([*overrides, *engine], **more) for engine in engines]  # pyright: ignore[reportArgumentType]


def test_torch_engines_train_like_one_process(overrides: list[str]) -> None:
    [alone] = follow([Leg(overrides)])
    shared = [[*engine, "parallel.sequence=2"] for engine in ([], ["engine.kind=ddp"])]
    forgetting = [leg._replace(discard=1) for leg in legs(overrides, shared)]
    ranks = run(2, follow, [*legs(overrides, [*ENGINES, *shared]), *forgetting])
    for seen in ranks:
        check_like(seen, alone)


@needs_deepspeed
def test_every_stage_of_zero_trains_like_one_process(overrides: list[str]) -> None:
    [alone] = follow([Leg(overrides)])
    shared = [[*zero, "parallel.sequence=2"] for zero in ZERO]
    ranks = run(2, follow, legs(overrides, [*DEEPSPEED, *shared]))
    for seen in ranks:
        check_like(seen, alone)


@needs_deepspeed
def test_a_run_goes_on_under_another_engine(overrides: list[str], tmp_path: Path) -> None:
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    sequence = [*overrides, *ZERO[0], "parallel.sequence=2"]
    [alone] = follow([Leg(overrides, 0, 8)])
    way = [
        Leg(overrides, 0, 2, save=a),
        Leg([*overrides, *ZERO[2]], 2, 4, load=a, save=b),
        Leg(sequence, 4, 6, load=b, save=c),
    ]
    parts = run(2, follow, way)[0]
    parts += follow([Leg(overrides, 6, 8, load=c)])
    seen = Seen([x for p in parts for x in p.losses], [x for p in parts for x in p.norms])
    check_like([seen], alone)


def test_projections_gathered_in_bf16_give_the_same_bits(overrides: list[str]) -> None:
    bf16 = [*overrides, "engine.precision=bf16", "model.tie_embeddings=false"]
    narrow = [*bf16, "engine.gather=bf16"]
    more = ["engine.remat=full", "engine.prefetch=2"]
    wide, *seen = run(2, follow, [Leg(bf16), Leg(narrow), Leg([*narrow, *more])])[0]
    assert all(each == wide for each in seen)


def test_sharded_muon_is_that_of_one_process(overrides: list[str], tmp_path: Path) -> None:
    muon, saved = [*overrides, "optim.kind=muon"], tmp_path / "saved"
    exact = [*muon, "optim.muon_precision=fp32"]
    [alone] = follow([Leg(exact)])
    engines = [[], ["engine.replicas=2"], ["engine.kind=ddp"], ["parallel.sequence=2"]]
    way = [Leg(muon), Leg(muon, 0, 3, save=saved), Leg(muon, 3, load=saved)]
    *seen, whole, first, rest = run(2, follow, [*legs(exact, engines), *way])[0]
    check_like(seen, alone)
    assert first.losses + rest.losses == whole.losses


@needs_deepspeed
@pytest.mark.long
def test_four_processes_over_twenty_steps(overrides: list[str]) -> None:
    overrides = [*overrides, "train.steps=20"]
    [alone] = follow([Leg(overrides, 0, 20)])
    every = [*ENGINES, *DEEPSPEED]
    rows = [engine for engine in every if "train.accumulate=2" not in engine]  # too few tokens
    shared = [[*engine, "parallel.sequence=2"] for engine in every]
    for seen in run(4, follow, legs(overrides, [*rows, *shared], stop=20)):
        check_like(seen, alone)


@needs_deepspeed
def test_the_same_engine_goes_on_bitwise(overrides: list[str], tmp_path: Path) -> None:
    way: list[Leg] = []
    for number, engine in enumerate([[], ["engine.kind=ddp"], *ZERO]):
        same, saved = [*overrides, *engine], tmp_path / str(number)
        way += [Leg(same, 0, 4), Leg(same, 0, 2, save=saved), Leg(same, 2, 4, load=saved)]
    seen = run(2, follow, way)[0]
    for whole, first, rest in zip(seen[::3], seen[1::3], seen[2::3], strict=True):
        assert first.losses + rest.losses == whole.losses
        assert first.norms + rest.norms == whole.norms
