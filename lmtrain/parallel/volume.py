"""Bytes that every rank of a block sends for a layer, forward and backward, by strategy.

Pure functions of a shape and of where documents start. What is padded so that packed tensors are
aligned is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmtrain.parallel.halo import messages
from lmtrain.parallel.lasp2 import only_neighbours
from lmtrain.parallel.routes import owned_by, routes
from lmtrain.parallel.shape import AttentionShape, Block, RecurrentShape, Shape
from lmtrain.parallel.ulysses import needed, shares


@dataclass(frozen=True)
class Volume:
    """Bytes that a rank sends."""

    forward: int = 0
    backward: int = 0

    def __add__(self, other: Volume) -> Volume:
        """Both."""
        return Volume(self.forward + other.forward, self.backward + other.backward)

    @property
    def total(self) -> int:
        """In both directions."""
        return self.forward + self.backward


Volumes = list[Volume]
"""One a rank, in their order."""


def most(volumes: Volumes) -> Volume:
    """The most that a rank sends, in each direction."""
    return Volume(max(v.forward for v in volumes), max(v.backward for v in volumes))


def plus(first: Volumes, second: Volumes) -> Volumes:
    """Of two things that the same ranks do."""
    return [a + b for a, b in zip(first, second, strict=True)]


def key_values(shape: AttentionShape, tokens: int, element: int) -> int:
    """Bytes of so many keys and values."""
    return 2 * tokens * shape.kv_heads * shape.head_dim * element


def ring(shape: AttentionShape, block: Block, *, zigzag: bool = False) -> Volumes:
    """Keys and values travel as far as a rank needs them, and again in the backward.

    Their gradients travel one step behind, in fp32, and home from the last rank that adds to them.
    A zigzag ring sends its half spans to their owners first, and the outputs back.
    """
    hops = ring_hops(shape, block, zigzag=zigzag)
    volumes = [sum(of_rank, Volume()) for of_rank in zip(*hops, strict=True)]
    return plus(volumes, exchange(shape, block)) if zigzag else volumes


def ring_hops(shape: AttentionShape, block: Block, *, zigzag: bool) -> list[Volumes]:
    """What every rank sends while it computes each step, and after the last."""
    found = block.layout.derive(routes, block.ranks, shape.window, zigzag)
    token = key_values(shape, 1, block.element), key_values(shape, 1, block.exact)

    def hop(rank: int, step: int) -> Volume:
        keys = sum(found.onward(rank, step)) * token[0] if step < block.ranks else 0
        gradients = (*found.followed(rank, step), *found.returned(rank, step))
        return Volume(keys, keys + sum(gradients) * token[1])

    ranks = range(block.ranks)
    return [[hop(rank, step) for rank in ranks] for step in range(block.ranks + 1)]


def exchange(shape: AttentionShape, block: Block) -> Volumes:
    """Half spans to their owners and back: q, k, v and outputs; in the backward the same."""
    q = shape.q_heads * shape.head_dim * block.element
    token, volumes = 2 * q + key_values(shape, 1, block.element), list[Volume]()
    for rank in range(block.ranks):
        (start, stop), *_ = owned_by(rank, block.ranks, block.length, zigzag=False)
        halves = owned_by(rank, block.ranks, block.length, zigzag=True)
        moved = token * sum(b - a for a, b in halves if not start <= a < stop)
        volumes.append(Volume(moved, moved))
    return volumes


def gather(shape: AttentionShape, block: Block) -> Volumes:
    """All keys and values to all, in both passes; their gradients, in fp32, to their owners."""
    others = block.ranks - 1
    sent = key_values(shape, block.length, block.element)
    returned = key_values(shape, block.length, block.exact)
    return [Volume(others * sent, others * (sent + returned))] * block.ranks


def halo(block: Block, left: int, token_bytes: int, token_gradient_bytes: int) -> Volumes:
    """The tokens within ``left`` before a span; their gradients go back in fp32."""
    volumes = [Volume()] * block.ranks
    for source, to, start, end in messages(block.layout, block.ranks, left):
        volumes[source] += Volume((end - start) * token_bytes, 0)
        volumes[to] += Volume(0, (end - start) * token_gradient_bytes)
    return volumes


def window_halo(shape: AttentionShape, block: Block) -> Volumes:
    """Keys and values before a span that the window reaches."""
    assert shape.window is not None
    token = key_values(shape, 1, block.element), key_values(shape, 1, block.exact)
    return halo(block, shape.window - 1, *token)


def convolution_halo(shape: RecurrentShape, block: Block) -> Volumes:
    """Channels before a span that the taps reach."""
    token = shape.conv_channels * block.element, shape.conv_channels * block.exact
    return halo(block, shape.taps - 1, *token)


def ulysses(shape: Shape, block: Block) -> Volumes:
    """To heads and back to tokens; the backward mirrors it.

    The ``block`` need not be closed: its ranks may be some of those that share documents.
    """
    heads, ranks = shape.heads, block.ranks
    match shape:
        case AttentionShape():
            inputs = [
                (shape.q_heads, shape.head_dim * block.element),
                (shape.kv_heads, 2 * shape.head_dim * block.element),
            ]
            output = shape.head_dim * block.element
        case RecurrentShape():
            inputs = [
                (shape.key_heads, 2 * shape.key_dim * block.element),
                (heads, shape.value_dim * block.element + shape.gates * block.exact),
            ]
            output = shape.value_dim * block.element
    has = [
        sum((b - a) * size for own, size in inputs for a, b in [needed(own, heads, ranks)[rank]])
        for rank in range(ranks)
    ]
    computed = [(b - a) * output for a, b in shares(heads, ranks)]
    return [
        Volume(
            block.length * (sum(has) - has[rank] + (ranks - 1) * computed[rank]),
            block.length * (sum(computed) - computed[rank] + (ranks - 1) * has[rank]),
        )
        for rank in range(ranks)
    ]


def usp(shape: AttentionShape, block: Block, degree: int, *, zigzag: bool) -> Volumes:
    """Ulysses over ``degree`` neighbours, then a ring over every ``degree``-th rank."""
    inner = Block(block.layout, degree, block.element)
    outer, part = crossed(shape, block, degree)
    steps = ring(part, outer, zigzag=zigzag)
    traded = ulysses(shape, inner)
    return [steps[rank // degree] + traded[rank % degree] for rank in range(block.ranks)]


def crossed(shape: AttentionShape, block: Block, degree: int) -> tuple[Block, AttentionShape]:
    """What the ring of Ulysses x ring works on: longer spans, fewer heads."""
    ranks = block.ranks // degree
    part = AttentionShape(
        shape.q_heads // degree,
        max(1, shape.kv_heads // degree),
        shape.head_dim,
        shape.window,
    )
    return Block(block.layout.gathered().shard(0, ranks), ranks, block.element), part


def lasp2(shape: RecurrentShape, block: Block) -> Volumes:
    """What every span does to a state, to all; in the backward, gradients of states to all.

    Where no span lies strictly inside a document, one state over each border that one crosses.
    """
    if block.layout.derive(only_neighbours, block.ranks):
        return zeco(shape, block)
    others = (block.ranks - 1) * block.exact
    volume = Volume(others * (shape.state + shape.transitions), others * shape.state)
    return [volume] * block.ranks


def zeco(shape: RecurrentShape, block: Block) -> Volumes:
    """One state over each border that a document crosses, and one gradient back."""
    size = shape.state * block.exact
    return [Volume(size * span.spills, size * span.continues) for span in block.spans()]
