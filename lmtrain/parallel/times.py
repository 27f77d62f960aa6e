"""What a strategy adds to the time of a layer, and the memory it works in.

Exposed time: what a rank waits for, beyond an equal share of the work of one process. A message
takes ``latency + bytes / speed`` of the slowest link it may meet; the backward pass of a kernel
takes as long as its products say, 2.5 times the forward for attention and twice for a scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, NamedTuple, Self

from lmtrain.parallel import volume
from lmtrain.parallel.links import Link, Links, Rates
from lmtrain.parallel.pairs import work
from lmtrain.parallel.shape import AttentionShape, Block, Shape
from lmtrain.parallel.ulysses import shares

if TYPE_CHECKING:
    from lmtrain.parallel.pairs import Meeting
    from lmtrain.parallel.volume import Volume

ATTENTION_BACKWARD, SCAN_BACKWARD = 2.5, 2.0
"""Work of the backward pass over that of the forward."""


@dataclass(frozen=True)
class Times:
    """Of one layer on the rank that waits longest."""

    forward: float = 0.0
    """Exposed seconds."""
    backward: float = 0.0
    memory: int = 0
    """Bytes of the buffers it works in."""

    def __add__(self, other: Times) -> Times:
        """One after the other, both held."""
        return Times(
            self.forward + other.forward,
            self.backward + other.backward,
            self.memory + other.memory,
        )

    @property
    def total(self) -> float:
        """Exposed seconds in both directions."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Machine:
    """What the times are computed with."""

    links: Links
    rates: Rates


class Kernel(NamedTuple):
    """Seconds of the parts of attention."""

    pair: float
    """Forward, of a visible pair."""
    query: float
    """Of adding what a block of keys says to an output, in fp32."""
    query_back: float
    """Of adding to the gradient of a query,"""
    key_back: float
    """and of a key and its value."""

    @classmethod
    def of(cls, shape: AttentionShape, block: Block, rates: Rates) -> Self:
        """At these rates."""
        q = shape.q_heads * shape.head_dim
        return cls(
            4 * q / rates.attention,
            q * (block.element + 2 * block.exact) / rates.memory,
            q * 3 * block.exact / rates.memory,
            2 * shape.kv_heads * shape.head_dim * 3 * block.exact / rates.memory,
        )

    def forward(self, met: Meeting) -> float:
        """With the keys of another rank."""
        return met.pairs * self.pair + met.queries * self.query

    def backward(self, met: Meeting) -> float:
        """The same."""
        added = met.queries * self.query_back + met.keys * self.key_back
        return ATTENTION_BACKWARD * met.pairs * self.pair + added


def ring(
    shape: AttentionShape, block: Block, on: Machine, *, zigzag: bool = False, stride: int = 1
) -> Times:
    """A hop hides behind the block that is computed meanwhile; steps wait for the busiest rank."""
    link, kernel = on.links.within(block.ranks * stride), Kernel.of(shape, block, on.rates)
    done, more = work(block, shape.window, zigzag=zigzag), ATTENTION_BACKWARD
    ideal = done.ideal * kernel.pair
    own = done.step(0, lambda met: met.pairs * kernel.pair)
    there, back = -ideal, -more * ideal
    for step, hop in enumerate(volume.ring_hops(shape, block, zigzag=zigzag)):
        moved, last = volume.most(hop), step == block.ranks
        compute = done.step(step, kernel.forward) if 0 < step < block.ranks else own * (not last)
        there += max(_message(link, moved.forward), compute)
        compute = done.step(step, kernel.backward) if 0 < step < block.ranks else more * compute
        back += max(_message(link, moved.backward), compute)
    buffers = 2 * volume.key_values(shape, block.length, block.element + block.exact)
    exposed = Times(there, back, buffers)
    return exposed + _zigzag(shape, block, link) if zigzag else exposed


def _zigzag(shape: AttentionShape, block: Block, link: Link) -> Times:
    """Half spans to their owners and back, which nothing hides."""
    moved = volume.most(volume.exchange(shape, block))
    kept = block.length * 2 * shape.q_heads * shape.head_dim * block.element
    kept += volume.key_values(shape, block.length, block.element)
    return Times(link.seconds(moved.forward, 2), link.seconds(moved.backward, 2), kept)


def _message(link: Link, size: int) -> float:
    return link.seconds(size) if size else 0.0


def gather(shape: AttentionShape, block: Block, on: Machine) -> Times:
    """All keys and values, behind the pairs of the span itself; the last rank has most to do.

    In the backward pass again, and then their gradients.
    """
    link, others = on.links.within(block.ranks), block.ranks - 1
    kv = volume.key_values(shape, others * block.length, block.element)
    d_kv = volume.key_values(shape, others * block.length, block.exact)
    kernel, done, more = (
        Kernel.of(shape, block, on.rates),
        work(block, shape.window),
        ATTENTION_BACKWARD,
    )
    own = min(row[i].pairs for i, row in enumerate(done.meetings)) * kernel.pair
    late = (done.most - done.ideal) * kernel.pair
    there = max(0.0, link.seconds(kv, others) - own) + late + block.length * kernel.query
    back = max(0.0, link.seconds(kv, others) - more * own) + more * late
    back += block.length * kernel.query_back + link.seconds(d_kv, others)
    tokens = block.length * block.ranks
    return Times(there, back, volume.key_values(shape, tokens, block.element + block.exact))


def window_halo(shape: AttentionShape, block: Block, on: Machine) -> Times:
    """One message a neighbour that the window reaches, before anything is computed."""
    assert shape.window is not None
    moved = volume.window_halo(shape, block)
    done = work(block, shape.window)
    late = (done.most - done.ideal) * Kernel.of(shape, block, on.rates).pair
    there, back = halo(block, shape.window - 1, volume.most(moved), on)
    reach = max(span.lookback(shape.window) for span in block.spans())
    memory = volume.key_values(shape, reach, block.element + block.exact)
    return Times(there + late, back + ATTENTION_BACKWARD * late, memory)


def halo(block: Block, left: int, moved: Volume, on: Machine) -> tuple[float, float]:
    """Seconds there and back of a halo of ``left`` tokens."""
    link, reach = on.links.within(block.ranks), max(s.lookback(left + 1) for s in block.spans())
    hops = -(-reach // block.length)
    return link.seconds(moved.forward, hops), link.seconds(moved.backward, hops)


def ulysses(shape: Shape, block: Block, on: Machine, *, ideal: float) -> Times:
    """Two exchanges, then the whole row with a share of the heads.

    Args:
        shape: of the mixer.
        block: ranks that trade.
        on: the machine.
        ideal: forward seconds of an equal share of the kernel.
    """
    moved = volume.most(volume.ulysses(shape, block))
    largest = max(b - a for a, b in shares(shape.heads, block.ranks))
    late = (largest * block.ranks / shape.heads - 1) * ideal
    more = ATTENTION_BACKWARD if isinstance(shape, AttentionShape) else SCAN_BACKWARD
    there = _traded(moved.forward, block.ranks, on.links) + late
    back = _traded(moved.backward, block.ranks, on.links) + more * late
    return Times(there, back, 2 * moved.forward * block.ranks // max(1, block.ranks - 1))


def _traded(size: float, ranks: int, links: Links) -> float:
    """Two all-to-alls of ``size`` bytes in all; what stays on the host goes beside the rest."""
    if links.shares_host(ranks):
        return links.between(inside=True).seconds(size, 2)
    near = gcd(ranks, links.ranks_per_host) - 1  # at least: a block may begin inside a host
    far = links.between(inside=False).seconds(size * (ranks - 1 - near) / (ranks - 1), 2)
    if not near:
        return far
    return max(far, links.between(inside=True).seconds(size * near / (ranks - 1), 2))


def usp(shape: AttentionShape, block: Block, on: Machine, degree: int, *, zigzag: bool) -> Times:
    """Ulysses over ``degree`` neighbours around a ring over every ``degree``-th rank."""
    outer, part = volume.crossed(shape, block, degree)
    inner = ulysses(shape, Block(block.layout, degree, block.element), on, ideal=0.0)
    return inner + ring(part, outer, on, zigzag=zigzag, stride=degree)
