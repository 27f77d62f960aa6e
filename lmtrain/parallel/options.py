"""What each strategy comes to for one mixer on one block of ranks: bytes, time, memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lmtrain.parallel import state_times, times, volume
from lmtrain.parallel.mesh import divisors
from lmtrain.parallel.pairs import work
from lmtrain.parallel.shape import AttentionShape, Block, RecurrentShape, Shape
from lmtrain.parallel.strategy import Strategy
from lmtrain.parallel.times import Machine, Times
from lmtrain.parallel.volume import Volume

if TYPE_CHECKING:
    from lmtrain.parallel.links import Links


@dataclass(frozen=True)
class Choice:
    """A strategy for one mixer on rows of one packing, and what it costs a layer."""

    strategy: Strategy
    degree: int = 1
    """Neighbours that documents leave together; what the strategy runs over."""
    ulysses: int = 1
    """Ranks that share out the heads."""
    ring: int = 1
    """Ranks that keys and values go round."""
    zigzag: bool = False
    """Whether the ring has equal work by early and late chunks."""
    blocks: int = 1
    """Parts that a state travels in (ZeCO)."""
    bytes: Volume = field(default_factory=Volume)
    """The most that a rank sends."""
    times: Times = field(default_factory=Times)
    """Exposed seconds and working memory."""
    against: tuple[str, ...] = ()
    """Why not the others, a sentence each."""

    @property
    def seconds(self) -> float:
        """Exposed seconds of forward and backward."""
        return self.times.total

    def __str__(self) -> str:
        """``usp 2x4`` and the like."""
        match self.strategy:
            case Strategy.usp:
                order = " zigzag" if self.zigzag else ""
                return f"usp {self.ulysses}x{self.ring}{order}"
            case Strategy.zeco if self.blocks > 1:
                return f"zeco in {self.blocks}"
            case _:
                return str(self.strategy)


def factorise(shape: AttentionShape, ranks: int, links: Links) -> tuple[int, int]:
    """Ranks for Ulysses and for the ring around it; the first is 1 where heads do not divide.

    The largest divisor of ``ranks`` that cuts query heads and groups of keys into equal parts,
    inside a host if one above 1 is.
    """
    fitting = [
        u
        for u in divisors(ranks)
        if shape.q_heads % u == 0 and (shape.kv_heads % u == 0 or u % shape.kv_heads == 0)
    ]
    near = [u for u in fitting if u > 1 and links.shares_host(u)]
    degree = max(near or fitting)
    return degree, ranks // degree


def option(strategy: Strategy, shape: Shape, block: Block, on: Machine) -> Choice:
    """What ``strategy`` comes to; it serves the shape."""
    match shape:
        case AttentionShape():
            return _attention(strategy, shape, block, on)
        case RecurrentShape():
            return _recurrent(strategy, shape, block, on)


def _attention(strategy: Strategy, shape: AttentionShape, block: Block, on: Machine) -> Choice:
    n = block.ranks

    def choice(volumes: list[Volume], cost: Times, **degrees: int) -> Choice:
        plain = Choice(strategy, n, bytes=volume.most(volumes), times=cost)
        return replace(plain, zigzag=strategy is Strategy.zigzag, **degrees)

    match strategy:
        case Strategy.ring:
            return choice(volume.ring(shape, block), times.ring(shape, block, on), ring=n)
        case Strategy.zigzag:
            volumes = volume.ring(shape, block, zigzag=True)
            cost = times.ring(shape, block, on, zigzag=True)
            return choice(volumes, cost, ring=n)
        case Strategy.gather:
            return choice(volume.gather(shape, block), times.gather(shape, block, on))
        case Strategy.halo:
            return choice(volume.window_halo(shape, block), times.window_halo(shape, block, on))
        case Strategy.ulysses:
            kernel = times.Kernel.of(shape, block, on.rates)
            ideal = work(block, shape.window).ideal * kernel.pair
            return choice(
                volume.ulysses(shape, block),
                times.ulysses(shape, block, on, ideal=ideal),
                ulysses=n,
            )
        case _:
            return _usp(shape, block, on)


def _usp(shape: AttentionShape, block: Block, on: Machine) -> Choice:
    """The better order of its ring; plain Ulysses where heads suffice for all ranks."""
    u, v = factorise(shape, block.ranks, on.links)
    if v == 1:
        return _attention(Strategy.ulysses, shape, block, on)
    orders = [False] if shape.window is not None else [False, True]
    costs = {order: times.usp(shape, block, on, u, zigzag=order) for order in orders}
    order = min(costs, key=lambda order: costs[order].total)
    volumes = volume.usp(shape, block, u, zigzag=order)
    return Choice(
        Strategy.usp, block.ranks, u, v, order, bytes=volume.most(volumes), times=costs[order]
    )


def _recurrent(strategy: Strategy, shape: RecurrentShape, block: Block, on: Machine) -> Choice:
    n, taps = block.ranks, state_times.convolution(shape, block, on)
    parts, share = 1, 1
    match strategy:
        case Strategy.lasp2:
            volumes, cost = volume.lasp2(shape, block), state_times.lasp2(shape, block, on)
        case Strategy.zeco:
            cost, parts = state_times.zeco(shape, block, on)
            volumes = volume.zeco(shape, block)
        case _:
            ideal, share = state_times.scan(shape, block, on), n
            volumes = volume.ulysses(shape, block)
            cost = times.ulysses(shape, block, on, ideal=ideal)
    sent = volume.most(volume.plus(volumes, volume.convolution_halo(shape, block)))
    return Choice(strategy, n, share, blocks=parts, bytes=sent, times=cost + taps)
