"""Memory, time, advice and scaling: formulas against the allocator, and against each other."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import torch

from lmtrain.bench.config import BenchConfig, BenchKind
from lmtrain.bench.footprint import measure, overrides
from lmtrain.config import compose
from lmtrain.inspect import case_of
from lmtrain.inspect.advice import ROOM, advise, fits, longest
from lmtrain.inspect.hardware import Hardware
from lmtrain.inspect.memory import Shares, busiest
from lmtrain.inspect.scale import efficiency, strong, tell, weak
from lmtrain.inspect.time import step_time
from lmtrain.parallel.hardware import CARDS
from lmtrain.parallel.links import Link, Links, Rates, typical, write_links
from lmtrain.settings.engine import EngineKind, Offload, Remat

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.inspect.case import Case

LINK = Link(1e-3, 1e9)
SLOW = Hardware("test", 2**30, Rates(1e10, 1e10, 1e10, 1e10), Links(4, LINK, LINK), cuda=False)


def case(*more: str, hardware: Hardware | None = None) -> Case:
    """A small hybrid on H100s, or on other hardware."""
    found = case_of(compose(["hardware=h100", "data.vocab_size=512", *more], "inspect"))
    return found if hardware is None else replace(found, hardware=hardware)


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset",
    [
        pytest.param("transformer", marks=pytest.mark.long),
        "mamba2",
        pytest.param("gated_deltanet", marks=pytest.mark.long),
        "hybrid_3to1",
    ],
)
@pytest.mark.parametrize("remat", [Remat.none, Remat.full])
def test_bytes_of_a_step_are_those_of_the_allocator(preset: str, remat: Remat) -> None:
    bench = BenchConfig(what=BenchKind.memory, size="debug", lengths=[2048], repeats=1)
    keys = [*overrides(bench, preset, 2048, remat), "model.vocab_size=256"]
    planned = compose(keys, "inspect")
    measured = measure(planned, preset, bench)
    state, added, _ = measured.errors
    assert abs(state) < 0.02
    assert abs(added) < 0.15
    assert measured.peak > 3 * measured.state  # activations dominate
    if remat is Remat.full:
        assert measured.moment.startswith("backward pass of block")


def test_engines_share_what_their_names_say() -> None:
    def shares(*keys: str) -> tuple[int, ...]:
        return tuple(Shares.of(case("world=8", "train.tokens_per_step=8192", *keys)))

    assert shares() == (8, 8, 8)
    assert shares("engine.replicas=2") == (4, 4, 4)
    assert shares("engine.kind=ddp") == (1, 1, 1)
    for zero, found in {1: (1, 1, 8), 2: (1, 8, 8), 3: (8, 8, 8)}.items():
        assert shares("engine.kind=deepspeed", f"engine.zero={zero}") == found
    assert tuple(Shares.of(case())) == (1, 1, 1)


def test_parameters_and_moments_are_exact_and_offloading_empties_the_card() -> None:
    found = case("world=4", "train.tokens_per_step=4096")
    total = found.cost.total.parameters
    assert busiest(found).parameters == 4 * total // 4
    assert busiest(found).optimizer == 8 * total // 4
    away = busiest(found.but({"engine.offload": Offload.parameters}))
    assert (away.parameters, away.gradients, away.optimizer) == (0, 0, 0)


def test_less_is_kept_the_more_is_computed_twice() -> None:
    found = [case(f"engine.remat={remat}") for remat in ("none", "selective", "full")]
    kept = [busiest(one).total for one in found]
    times = [step_time(one).total for one in found]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == 3
    assert times == sorted(times)
    assert len(set(times)) == 3


def test_a_ring_takes_latency_and_bytes_as_said() -> None:
    found = case("world=4", "engine.kind=deepspeed", "engine.zero=1", hardware=SLOW)
    whole = 4 * found.cost.total.parameters
    ring = 3 * LINK.latency_seconds + whole * 3 / 4 / LINK.bytes_per_second
    assert step_time(found).engine == pytest.approx(2 * ring)
    update = 32 * found.cost.total.parameters / 4 / SLOW.rates.memory
    assert step_time(found).update == pytest.approx(update + ring)


def test_links_without_limit_leave_only_computation() -> None:
    fast = Link(0.0, 1e30)
    free = replace(SLOW, links=Links(4, fast, fast))
    for kind in ("fsdp", "ddp"):
        found = case("world=4", f"engine.kind={kind}", hardware=free)
        assert step_time(found).engine == pytest.approx(0, abs=1e-12)
        assert step_time(replace(found, hardware=SLOW)).engine > 0


def test_twice_the_parts_take_twice_the_time_but_one_update() -> None:
    once = case("train.tokens_per_step=4096", hardware=SLOW)
    twice = once.but({"train.accumulate": 2, "train.tokens_per_step": 8192})
    one, two = step_time(once), step_time(twice)
    assert sum(two.layers.values()) == pytest.approx(2 * sum(one.layers.values()))
    assert two.update == one.update


def test_the_longest_document_fits_and_twice_that_does_not() -> None:
    small = replace(SLOW, memory=2**28)
    found = case(hardware=small)
    length = longest(found)
    assert length is not None
    assert fits(found.but({"train.tokens_per_step": length}, length=length))
    assert not fits(found.but({"train.tokens_per_step": 2 * length}, length=2 * length))


def test_advice_fits_and_no_smaller_change_does() -> None:
    asked = case("world=4", "train.tokens_per_step=65536", "engine.kind=ddp")
    need = busiest(asked).total
    assert advise(replace(asked, hardware=replace(SLOW, memory=2 * need))).changes == {}  # type: ignore[union-attr]
    tight = replace(asked, hardware=replace(SLOW, memory=int(0.7 * need / ROOM)))
    advice = advise(tight)
    assert advice is not None
    assert len(advice.changes) == 1
    [(key, value)] = advice.changes.items()
    assert advice.overrides == f"{key}={value}"
    assert fits(tight.but({key: value}))
    assert advise(replace(asked, hardware=replace(SLOW, memory=2**20))) is None


@pytest.mark.parametrize(("compiled", "advised"), [(False, Remat.selective), (True, Remat.full)])
def test_advice_is_what_a_run_would_take(*, compiled: bool, advised: Remat) -> None:
    """Graphs of compiled blocks choose themselves what they keep."""
    row = ["curriculum.max_length=4096", "train.tokens_per_step=4096"]
    asked = case(f"engine.compile={compiled}", *row)
    limit = int(1.01 * busiest(asked.but({"engine.remat": Remat.selective})).total / ROOM)
    advice = advise(replace(asked, hardware=replace(asked.hardware, memory=limit)))
    assert advice is not None
    assert advice.changes == {"engine.remat": advised}


def test_efficiency_never_grows_and_strong_scaling_ends(tmp_path: Path) -> None:
    found = case("scale=1..64", "train.tokens_per_step=16384", f"out={tmp_path}/scale.png")
    worlds = [1 << i for i in range(7)]
    assert found.config.worlds == worlds  # type: ignore[attr-defined]
    grown, cut = weak(found, worlds), strong(found, worlds)
    assert [point.world for point in grown] == worlds
    assert [point.world for point in cut] == [1, 2, 4, 8, 16]  # rows of one document of 1,024
    for points in (grown, cut):
        shares = efficiency(points)
        assert shares[0] == 1
        assert all(later <= before + 1e-9 for before, later in pairwise(shares[1:]))
    assert str(tmp_path / "scale.png") in str(tell(found, worlds, str(tmp_path / "scale.png"))[-1])
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_measured_hardware_is_read_and_must_know_products(tmp_path: Path) -> None:
    path = tmp_path / "links.json"
    links, rates = typical("cpu", 2)
    write_links(path, links, replace(rates, products=5e9))
    assert case(f"hardware={path}").hardware.products == 5e9
    data = {**asdict(links), "rates": {"attention": 1.0, "scan": 1.0, "memory": 1.0}}
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"lacks rates.products.*bench what=links"):
        case(f"hardware={path}")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["hardware=h1000"], r"hardware=h1000 is neither a file nor one of .*h100"),
        (["nodes=2", "world=16"], r"nodes=2 and world=16 say the same"),
        (["world=3"], r"train.tokens_per_step=4096 does not cut into 3 rows"),
        (["scale=8..2"], r"scale=8\.\.2 is no range"),
        (["memory=0"], r"memory=0 must be positive"),
        (["world=4", "engine.replicas=3"], r"engine.replicas=3 must divide the 4 processes"),
        (["world=4", "engine.kind=deepspeed"], r"engine.zero=None is no stage"),
        (["hybrid.mixer=G", "hybrid.ratio=2:1", "model.n_layers=4"], r"hybrid.ratio=2:1"),
        (["optim.base_width=64", "model.tie_embeddings=true"], r"optim.base_width=64 needs an out"),
        (["engine.remat=budget"], r"engine.remat_budget=null must lie in"),
        (
            ["world=4", "engine.kind=deepspeed", "engine.zero=2", "optim.kind=muon"],
            r"optim.kind=muon needs whole matrices",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(keys: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        case(*keys)


def test_nodes_are_full_of_cards() -> None:
    found = case("nodes=2", "train.tokens_per_step=16384")
    assert found.world == 2 * CARDS["h100"].per_node
    assert found.config.engine.kind is EngineKind.fsdp


def test_the_card_that_is_here_has_the_memory_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    total = 42_300_000_000
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (total, total))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100-SXM4-40GB")
    assert case("hardware=auto").hardware.memory == total
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L40S")
    with pytest.raises(ValueError, match=r"hardware=auto finds NVIDIA L40S.*hardware=a100\|h100"):
        case("hardware=auto")


def test_processes_of_a_host_share_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("lmtrain.inspect.hardware._host_memory", lambda: 2**40)
    path = tmp_path / "links.json"
    write_links(path, typical("cpu", 8)[0], Rates(1e10, 1e10, 1e10, 1e10))
    for keys, together in (("world=4", 4), ("nodes=2", 8), ("world=16", 8)):
        found = case(f"hardware={path}", keys, "train.tokens_per_step=16384").hardware
        assert found.memory == 2**40 // together


def test_this_machine_is_measured() -> None:
    rates = case("hardware=cpu").hardware.rates
    assert all(value > 1e8 for value in asdict(rates).values())
    assert torch.get_num_threads() == 1  # as it was before
