"""The benchmarks of several processes: the fit, the cases, and a run of each by two processes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from world import torchrun

from lmtrain.bench.config import BenchConfig, BenchKind
from lmtrain.bench.links import FASTEST, Call, bench_links, fit
from lmtrain.bench.parallel import bench_strategies
from lmtrain.parallel.links import Link, read_links

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LINKS, SP = BenchKind.links, BenchKind.sp


def calls(link: Link) -> list[Call]:
    sizes = [(1, 4096), (1, 2**20), (3, 3 * 4096), (3, 3 * 2**22)]
    return [Call("", n, size, link.seconds(size, n)) for n, size in sizes]


@pytest.mark.parametrize("link", [Link(1e-5, 45e10), Link(3e-4, 1e8), Link(2e-3, 1e12)], ids=str)
def test_the_fit_finds_the_link_behind_exact_times(link: Link) -> None:
    found = fit(calls(link))
    assert found.latency_seconds == pytest.approx(link.latency_seconds, rel=1e-6)
    assert found.bytes_per_second == pytest.approx(link.bytes_per_second, rel=1e-4)


def test_noise_gives_no_impossible_link() -> None:
    shrinking = [Call("", 1, 4096, 2e-3), Call("", 1, 2**20, 1e-3)]
    assert fit(shrinking).bytes_per_second == pytest.approx(FASTEST.bytes_per_second)
    growing = [Call("", 1, 4096, 1e-6), Call("", 1, 2**20, 2e-3), Call("", 1, 2**22, 16e-3)]
    assert fit(growing).latency_seconds == FASTEST.latency_seconds
    assert 2e8 < fit(growing).bytes_per_second < 6e9


@pytest.mark.parametrize(
    ("bench", "config", "told"),
    [
        (bench_links, BenchConfig(what=LINKS), "what=links measures between processes: start it"),
        (bench_links, BenchConfig(what=LINKS, sizes=[64]), r"sizes=\[64\] must be two or more"),
        (bench_strategies, BenchConfig(what=SP), "what=sp measures between processes: start it"),
        (bench_strategies, BenchConfig(what=SP, letters="AX"), "letters=AX must be some of AWMG"),
        (bench_strategies, BenchConfig(what=SP, strategies=["rng"]), r"strategies=\['rng'\] are"),
        (bench_strategies, BenchConfig(what=SP, size="2b"), "size=2b is unknown: choose .* 8b"),
        (bench_strategies, BenchConfig(what=SP, lengths=[0]), r"lengths=\[0\] must be positive"),
        (bench_strategies, BenchConfig(what=SP, links="/no"), "links=/no is no file"),
    ],
)
def test_a_wrong_value_is_refused_before_processes_meet(
    bench: Callable[[BenchConfig], object],
    config: BenchConfig,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match=told):
        bench(config)


@pytest.mark.slow
def test_every_strategy_sends_the_bytes_of_its_formula(tmp_path: Path) -> None:
    links, out = tmp_path / "links.json", tmp_path / "sp.json"
    once = {"threads": 1, "warm_up": 0, "repeats": 1}
    measured_links = BenchConfig(what=LINKS, sizes=[64, 65536], out=str(links), **once)  # type: ignore[arg-type]
    torchrun(2, bench_links, measured_links)
    assert read_links(links)[0].inside is not None
    record = json.loads(links.read_text())["record"]
    assert record["command"].startswith("torchrun --nproc-per-node=2 -m lmtrain bench ")
    assert {call["operation"] for call in record["results"]} >= {"message", "all_to_all"}

    shared = {"lengths": [132], "window": 40, "out": str(out), "links": str(links)}
    torchrun(2, bench_strategies, BenchConfig(what=SP, **shared, **once))  # type: ignore[arg-type]
    records = json.loads(out.read_text())["results"]
    measured = {(m["letter"], m["strategy"].split()[0]) for m in records if m["degree"] == 2}
    assert {letter for letter, _ in measured} == set("AWMG")
    assert len(measured) == 4 + 4 + 3 + 3  # two ranks leave no ring around Ulysses
    for m in records:
        assert m["sent"] == pytest.approx(m["formula"], rel=0.01)  # tensors are aligned
        assert m["forward"] > 0
        assert (m["exposed"] > 0) == (m["degree"] > 1)
