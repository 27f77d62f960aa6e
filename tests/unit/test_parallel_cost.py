"""The cost model: published times, crossovers, choices and refusals; the file of the links."""

from __future__ import annotations

import json
from math import inf
from typing import TYPE_CHECKING

import pytest

from lmtrain.layout import SequenceLayout
from lmtrain.parallel import state_times, times
from lmtrain.parallel.config import ParallelConfig, StrategyConfig
from lmtrain.parallel.cost import choose, factorise
from lmtrain.parallel.links import (
    CPU_CORE,
    ETHERNET,
    GLOO,
    H100,
    INFINIBAND,
    NVLINK,
    Link,
    Links,
    Rates,
    read_links,
    typical,
    write_links,
)
from lmtrain.parallel.shape import AttentionShape, Block, RecurrentShape, Transition
from lmtrain.parallel.strategy import FITS, Strategy
from lmtrain.parallel.times import Machine

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.parallel.cost import Choice
    from lmtrain.parallel.shape import Shape

ATTENTION = AttentionShape(32, 8, 128)
WINDOW = AttentionShape(32, 8, 128, 4096)
MAMBA2 = RecurrentShape(128, 8, 128, 64, Transition.scalar, 8192 + 2 * 8 * 128, 4)
DELTA = RecurrentShape(32, 32, 128, 256, Transition.matrix, 32 * (2 * 128 + 256), 4)
FAST, SLOW = (Links.uniform(Link(10e-6, speed)) for speed in (450e9, 50e9))
TABLE = {
    (2**17, 8, FAST): (0.67, 0.79, 26, 0.14, 0.17, 0.12),
    (2**20, 8, FAST): (5.2, 6.0, 1642, 0.14, 0.17, 0.12),
    (2**17, 8, SLOW): (5.9, 6.8, 26, 0.66, 0.95, 0.29),
    (2**20, 64, SLOW): (None, 6.8, 231, 5.9, 8.6, 1.2),
}


def pick(
    shape: Shape,
    tokens: int,
    ranks: int,
    links: Links = FAST,
    forced: Strategy = Strategy.auto,
) -> Choice:
    """For one document, on H100s."""
    return choose(shape, (0, tokens), ranks, links, H100, forced)


@pytest.mark.parametrize(("case", "expected"), TABLE.items(), ids=range(len(TABLE)))
def test_forward_times_are_those_of_the_published_table(
    case: tuple[int, int, Links], expected: tuple[float | None, ...]
) -> None:
    """In ms, before anything hides the states; ms below one are published with two digits."""
    tokens, ranks, links = case
    on = Machine(links, Rates(600e12, inf, inf))
    block = Block(SequenceLayout.whole((0, tokens)).shard(0, ranks), ranks)
    found = [
        times.ulysses(ATTENTION, block, on, ideal=0.0),
        times.ring(ATTENTION, block, on, zigzag=True),
        times.ring(ATTENTION, block, on),
        state_times.lasp2(MAMBA2, block, on),
        state_times.lasp2(DELTA, block, on),
        state_times.zeco(DELTA, block, on)[0],
    ]
    for cost, ms in zip(found, expected, strict=True):
        if ms is not None:
            assert 1e3 * cost.forward == pytest.approx(ms, rel=0.04)


def test_a_halo_waits_for_one_message() -> None:
    on = Machine(FAST, Rates(inf, inf, inf))
    block = Block(SequenceLayout.whole((0, 2**17)).shard(0, 8), 8)
    assert 1e3 * times.window_halo(WINDOW, block, on).forward == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize(
    ("heads", "ranks", "split"),
    [((30, 30), 8, (2, 4)), ((32, 8), 64, (32, 2)), ((32, 2), 8, (8, 1)), ((28, 4), 8, (4, 2))],
    ids=str,
)
def test_ranks_split_into_heads_and_a_ring(
    heads: tuple[int, int], ranks: int, split: tuple[int, int]
) -> None:
    shape = AttentionShape(*heads, 128)
    assert factorise(shape, ranks, FAST) == split
    for choice in (
        pick(shape, 2**20, ranks, forced=Strategy.usp),
        pick(shape, 2**20, ranks),  # and it is the cheapest
    ):
        assert (choice.ulysses, choice.ring) == split
        assert choice.strategy is (Strategy.ulysses if split[1] == 1 else Strategy.usp)


def test_heads_are_shared_out_inside_a_host_where_they_can_be() -> None:
    assert factorise(ATTENTION, 64, Links(8, NVLINK, INFINIBAND)) == (8, 8)
    assert factorise(AttentionShape(30, 30, 128), 16, Links(8, NVLINK, INFINIBAND)) == (2, 8)
    assert factorise(AttentionShape(7, 7, 128), 8, FAST) == (1, 8)


def test_the_cheapest_is_chosen_for_each_mixer() -> None:
    assert pick(ATTENTION, 2**20, 8).strategy is Strategy.ulysses
    assert pick(WINDOW, 2**20, 8).strategy is Strategy.halo
    assert pick(MAMBA2, 2**20, 64, SLOW).strategy is Strategy.zeco
    assert str(pick(DELTA, 2**20, 64, SLOW)) == "zeco in 32"
    assert pick(MAMBA2, 2**20, 2).strategy is Strategy.lasp2  # one message either way
    assert pick(MAMBA2, 2**10, 8).strategy is Strategy.ulysses  # few tokens, large states


@pytest.mark.parametrize("shape", [ATTENTION, WINDOW, MAMBA2, DELTA], ids=lambda s: s.letter)
def test_every_other_strategy_is_told_why_not(shape: Shape) -> None:
    choice = pick(shape, 2**17, 8)
    assert all(" would cost " in why for why in choice.against)
    assert len(choice.against) >= len(FITS[shape.letter]) - 2
    assert choice == pick(shape, 2**17, 8)
    for strategy in FITS[shape.letter]:
        assert pick(shape, 2**17, 8, forced=strategy).seconds >= choice.seconds


def test_a_document_pays_for_the_ranks_it_is_on() -> None:
    rows = [tuple(range(0, 2**17 + 1, 2**17 // pieces)) for pieces in (8, 4, 2, 1)]
    costs = [choose(DELTA, bounds, 8, FAST, H100) for bounds in rows]
    assert [cost.degree for cost in costs] == [1, 2, 4, 8]
    assert costs[0].strategy is Strategy.local
    assert costs[0].bytes.total == 0
    assert [c.seconds for c in costs] == sorted(c.seconds for c in costs)
    assert choose(ATTENTION, rows[0], 8, FAST, H100, Strategy.ring).strategy is Strategy.local


def test_where_no_span_is_inside_a_document_no_transition_is_computed() -> None:
    bounds, length = (0, 6, 10, 14, 16), 4
    block = Block(SequenceLayout.whole(bounds).shard(0, 4), 4)
    assert len(block.layout) == length
    assert state_times.depth(block) == 1
    on = Machine(FAST, H100)
    whole = Block(SequenceLayout.whole((0, 16)).shard(0, 4), 4)
    assert state_times.depth(whole) == 3
    assert state_times.lasp2(DELTA, block, on).total < state_times.lasp2(DELTA, whole, on).total


@pytest.mark.parametrize(
    ("shape", "tokens", "ranks", "forced", "told"),
    [
        (ATTENTION, 2**20, 64, Strategy.ulysses, r"64 ranks > 32 heads: .* usp \(32x2\)"),
        (DELTA, 2**20, 64, Strategy.ulysses, r"64 ranks > 32 heads: .* zeco, .*sequence=32$"),
        (AttentionShape(7, 7, 8), 2**10, 8, Strategy.usp, r"A=usp needs a divisor of 8 .* ring$"),
        (ATTENTION, 24, 8, Strategy.zigzag, r"it has 3 tokens: choose ring, .* divide by 16$"),
        (WINDOW, 2**17, 8, Strategy.lasp2, r"W=lasp2 does not serve mixer W: choose auto, halo"),
        (MAMBA2, 2**17, 8, Strategy.halo, r"M=halo does not serve mixer M: choose auto, lasp2"),
    ],
    ids=lambda value: str(value) if isinstance(value, Strategy) else "",
)
def test_what_cannot_be_is_refused_with_the_arithmetic(
    shape: Shape, tokens: int, ranks: int, forced: Strategy, told: str
) -> None:
    with pytest.raises(ValueError, match=rf"^parallel\.strategy\..*{told}"):
        pick(shape, tokens, ranks, forced=forced)


def test_hosts_decide_which_link_is_slowest() -> None:
    links = Links(4, NVLINK, INFINIBAND)
    assert links.within(4) is links.within(2) is NVLINK
    assert links.within(8) is INFINIBAND
    assert links.within(3) is INFINIBAND  # ranks 3, 4, 5 are on two hosts
    near, far = (choose(ATTENTION, (0, 2**17), n, links, H100).seconds for n in (4, 8))
    assert far > 2 * near
    with pytest.raises(ValueError, match="knows no link across hosts"):
        choose(ATTENTION, (0, 2**17), 8, Links(4, NVLINK, None), H100)


def test_an_exchange_uses_both_classes_of_link_at_once() -> None:
    block = Block(SequenceLayout.whole((0, 2**17)).shard(0, 8), 8)

    def ulysses(links: Links) -> float:
        return times.ulysses(ATTENTION, block, Machine(links, H100), ideal=0.0).forward

    mixed = ulysses(Links(4, NVLINK, INFINIBAND))
    assert ulysses(Links(8, NVLINK, None)) < mixed < ulysses(Links.uniform(INFINIBAND))
    across = [Links(ranks, NVLINK, INFINIBAND) for ranks in (6, 12)]
    assert ulysses(across[0]) == ulysses(Links(2, NVLINK, INFINIBAND)), "ranks 4 to 7 lie 2 + 2"
    assert ulysses(across[1]) == mixed


def test_what_was_measured_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "links.json"
    for links, rates in (typical("cuda", 8), typical("cpu", 2), (Links(2, GLOO, None), CPU_CORE)):
        write_links(file, links, rates)
        assert read_links(file) == (links, rates)
        write_links(file, links, rates, {"command": "lmtrain bench what=links"})
        assert read_links(file) == (links, rates)
    assert typical("cpu", 2)[0] == Links(2, GLOO, ETHERNET)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"inside": {"latency_seconds": 1e-5}}, "inside lacks bytes_per_second; write it again"),
        ({"rates": None}, "rates lacks attention, memory, scan"),
        ({"ranks_per_host": 0}, "ranks_per_host=0 must be at least 1"),
        ({"speed": 1}, "the file has an unknown speed"),
        ({"across": {"latency_seconds": -1, "bytes_per_second": 1}}, "across.latency_seconds=-1"),
        ({"across": {"latency_seconds": 1, "bytes_per_second": "x"}}, "'x' must be positive"),
    ],
)
def test_a_wrong_file_is_refused_by_its_entry(change: dict, told: str, tmp_path: Path) -> None:
    file = tmp_path / "links.json"
    write_links(file, *typical("cpu", 2))
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=rf"^parallel\.links=.*{told}"):
        read_links(file)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_file_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "links.json").write_text(text)
    with pytest.raises(ValueError, match=r"^parallel\.links="):
        read_links(tmp_path / "links.json")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (ParallelConfig(sequence=0), "sequence=0 must be at least 1"),
        (ParallelConfig(sequence=3), "sequence=3 does not divide the 4 processes"),
        (ParallelConfig(links="/no/where"), "links=/no/where is no file"),
        (ParallelConfig(strategy=StrategyConfig(A=Strategy.zeco)), "strategy.A=zeco does not"),
        (ParallelConfig(strategy=StrategyConfig(W=Strategy.local)), "strategy.W=local does not"),
    ],
)
def test_a_wrong_value_is_a_sentence(config: ParallelConfig, told: str) -> None:
    [problem] = config.check(4)
    assert problem.startswith(f"parallel.{told}")
    assert ParallelConfig(sequence=2).check(4) == []
