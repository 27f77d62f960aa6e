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

SHARED = "parallel.sequence=2"
WIDER = ["model.tie_embeddings=false", "optim.base_width=16"]
ZERO = [["engine.kind=deepspeed", f"engine.zero={stage}"] for stage in (1, 2, 3)]
TORCH = [
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def overrides(tiny: list[str], folder: Path) -> list[str]:
    return [*tiny, f"run.dir={folder / 'run'}", "engine.device=cpu", "optim.clip=0.5"]


@pytest.fixture(scope="module")
def alone(overrides: list[str]) -> Seen:
    """One process."""
    [seen] = follow([Leg(overrides, 0, 8)])
    assert min(seen.norms) > 0.5, "nothing would be clipped"
    return seen


def legs(overrides: list[str], engines: list[list[str]]) -> list[Leg]:
    return [Leg([*overrides, *engine]) for engine in engines]


def there_and_back(overrides: list[str], saved: Path) -> list[Leg]:
    return [Leg(overrides, 0, 4), Leg(overrides, 0, 2, save=saved), Leg(overrides, 2, 4, saved)]


def follow_in_two(groups: dict[str, list[Leg]]) -> dict[str, list[Seen]]:
    """What two processes saw, which agree; one start for all, as it costs the most."""
    first, second = run(2, follow, [leg for group in groups.values() for leg in group])
    assert first == second
    seen = iter(first)
    return {name: [next(seen) for _ in group] for name, group in groups.items()}


def check_like(seen: Sequence[Seen], expected: Seen) -> None:
    for each in seen:
        steps = len(each.losses)
        assert each.losses == pytest.approx(expected.losses[:steps], rel=1e-5)
        assert each.norms == pytest.approx(expected.norms[:steps], rel=1e-5)


def check_bitwise(seen: list[Seen]) -> None:
    for whole, first, rest in zip(seen[::3], seen[1::3], seen[2::3], strict=True):
        assert first.losses + rest.losses == whole.losses
        assert first.norms + rest.norms == whole.norms


@pytest.fixture(scope="module")
def wider_alone(overrides: list[str]) -> Seen:
    """One process, whose parameters learn at several rates."""
    return follow([Leg([*overrides, *WIDER])])[0]


@pytest.fixture(scope="module")
def with_torch(overrides: list[str], folder: Path) -> dict[str, list[Seen]]:
    muon = [*overrides, "optim.kind=muon"]
    bf16 = [*overrides, "engine.precision=bf16", "model.tie_embeddings=false"]
    narrow = [*bf16, "engine.gather=bf16"]
    again = ["engine.remat=full", "engine.prefetch=2"]
    shared = legs(overrides, [[SHARED], [SHARED, "engine.kind=ddp"]])
    exact = [*muon, "optim.muon_precision=fp32"]
    return follow_in_two(
        {
            "engines": [*legs(overrides, TORCH), *shared],
            "discarding": [leg._replace(discard=1) for leg in shared],
            "refusing": [leg._replace(broken=1) for leg in shared],
            "gathered": [Leg(bf16), Leg(narrow), Leg([*narrow, *again])],
            "wider": legs([*overrides, *WIDER], [[], ["engine.kind=ddp"]]),
            "muon": legs(exact, [[], ["engine.replicas=2"], ["engine.kind=ddp"], [SHARED]]),
            "muon resumed": there_and_back(muon, folder / "muon"),
        }
    )


def test_torch_engines_train_like_one_process(
    with_torch: dict[str, list[Seen]], alone: Seen, wider_alone: Seen
) -> None:
    check_like(with_torch["engines"], alone)
    check_like(with_torch["wider"], wider_alone)
    check_like(with_torch["discarding"], alone)
    check_like(with_torch["refusing"], alone)


def test_projections_gathered_in_bf16_give_the_same_bits(
    with_torch: dict[str, list[Seen]],
) -> None:
    wide, *narrow = with_torch["gathered"]
    assert all(each == wide for each in narrow)


def test_sharded_muon_is_that_of_one_process(
    with_torch: dict[str, list[Seen]], overrides: list[str]
) -> None:
    [alone] = follow([Leg([*overrides, "optim.kind=muon", "optim.muon_precision=fp32"])])
    check_like(with_torch["muon"], alone)
    check_bitwise(with_torch["muon resumed"])


@pytest.fixture(scope="module")
def with_zero(overrides: list[str], folder: Path) -> dict[str, list[Seen]]:
    a, b, c = folder / "a", folder / "b", folder / "c"
    return follow_in_two(
        {
            "engines": legs(overrides, [*ZERO, DEEPSPEED[4], *DEEPSPEED[6:]]),
            "shared": legs(overrides, [[*zero, SHARED] for zero in ZERO]),
            "wider": legs([*overrides, *WIDER], ZERO[::2]),
            "refusing": [leg._replace(broken=1) for leg in legs(overrides, DEEPSPEED[6:])],
            "changing": [
                Leg(overrides, 0, 2, save=a),
                Leg([*overrides, *ZERO[2]], 2, 4, load=a, save=b),
                Leg([*overrides, *ZERO[0], SHARED], 4, 6, load=b, save=c),
                Leg([*overrides, "engine.kind=ddp"], 6, 7, load=c),
            ],
        }
    )


@needs_deepspeed
def test_every_stage_of_zero_trains_like_one_process(
    with_zero: dict[str, list[Seen]], alone: Seen, wider_alone: Seen
) -> None:
    check_like(with_zero["wider"], wider_alone)
    check_like(
        [seen for name in ("engines", "shared", "refusing") for seen in with_zero[name]], alone
    )


@needs_deepspeed
def test_a_run_goes_on_under_another_engine(
    with_zero: dict[str, list[Seen]], alone: Seen, overrides: list[str], folder: Path
) -> None:
    *parts, replicated = with_zero["changing"]
    parts += follow([Leg(overrides, 6, 8, load=folder / "c")])
    seen = Seen([x for p in parts for x in p.losses], [x for p in parts for x in p.norms])
    check_like([seen], alone)
    assert replicated.losses == pytest.approx(alone.losses[6:7], rel=1e-5)


@needs_deepspeed
@pytest.mark.long
def test_the_same_engine_goes_on_bitwise(overrides: list[str], folder: Path) -> None:
    engines = [[], ["engine.kind=ddp"], *ZERO]
    ways = {
        str(number): there_and_back([*overrides, *engine], folder / str(number))
        for number, engine in enumerate(engines)
    }
    for seen in follow_in_two(ways).values():
        check_bitwise(seen)


@needs_deepspeed
@pytest.mark.long
def test_four_processes_over_twenty_steps(overrides: list[str]) -> None:
    overrides = [*overrides, "train.steps=20"]
    [alone] = follow([Leg(overrides, 0, 20)])
    every = [*TORCH, *DEEPSPEED]
    rows = [engine for engine in every if "train.accumulate=2" not in engine]  # too few tokens
    shared = [[*engine, SHARED] for engine in every]
    way = [leg._replace(stop=20) for leg in legs(overrides, [*rows, *shared])]
    for seen in run(4, follow, way):
        check_like(seen, alone)
