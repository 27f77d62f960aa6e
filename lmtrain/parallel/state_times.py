"""The same for recurrences: what carrying a state adds to a scan.

What a scan can do without the state that enters it hides the messages of the forward pass; the
backward pass waits for its messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmtrain.ops.chunks import CHUNK
from lmtrain.parallel import volume
from lmtrain.parallel.lasp2 import only_neighbours
from lmtrain.parallel.shape import Transition
from lmtrain.parallel.times import Times, halo

if TYPE_CHECKING:
    from lmtrain.parallel.shape import Block, RecurrentShape
    from lmtrain.parallel.times import Machine


def convolution(shape: RecurrentShape, block: Block, on: Machine) -> Times:
    """The halo of the short convolution, which every strategy needs."""
    moved = volume.most(volume.convolution_halo(shape, block))
    reach = max(span.lookback(shape.taps) for span in block.spans())
    memory = reach * shape.conv_channels * (block.element + block.exact)
    return Times(*halo(block, shape.taps - 1, moved, on), memory)


def lasp2(shape: RecurrentShape, block: Block, on: Machine) -> Times:
    """One all-gather of summaries in a ring, and the fold of those before."""
    link, others = on.links.within(block.ranks), block.ranks - 1
    moved = volume.most(volume.lasp2(shape, block))
    if block.layout.derive(only_neighbours, block.ranks):
        others = 1
    fold = (others - 1) * _act(shape) / on.rates.scan
    there = max(0.0, link.seconds(moved.forward, others) - inside(shape, block, on))
    gathered = block.ranks * (shape.state + shape.transitions) if others > 1 else 2 * shape.state
    return Times(
        there + fold + _transition(shape, block, on),
        link.seconds(moved.backward, others) + fold,
        gathered * block.exact,
    )


def zeco(shape: RecurrentShape, block: Block, on: Machine) -> tuple[Times, int]:
    """A chain as long as the longest document, its states in blocks; and how many blocks."""
    divisors = (n for n in range(1, shape.value_dim + 1) if shape.value_dim % n == 0)
    chain, blocks = min((_chain(shape, block, on, n), n) for n in divisors)
    there = max(0.0, chain - inside(shape, block, on)) + _transition(shape, block, on)
    memory = (2 * shape.state + shape.transitions) * block.exact
    return Times(there, chain, memory), blocks


def _chain(shape: RecurrentShape, block: Block, on: Machine, blocks: int) -> float:
    """Seconds until the last block has passed the last border."""
    hops = depth(block)
    far = 0 if on.links.shares_host(block.ranks) else -(-hops // on.links.ranks_per_host)
    work = _act(shape) / on.rates.scan
    size = shape.state * block.exact

    def hop(*, inside: bool) -> float:
        return on.links.between(inside=inside).seconds(size / blocks) + work / blocks

    chain = (hops - far) * hop(inside=True) if hops > far else 0.0
    chain += far * hop(inside=False) if far else 0.0
    return chain + (blocks - 1) * hop(inside=not far)


def depth(block: Block) -> int:
    """Borders that a state crosses one after the other."""
    longest = run = 0
    for span in block.spans():
        run = run + 1 if span.alive else 1
        longest = max(longest, run if span.spills else 0)
    return longest


def inside(shape: RecurrentShape, block: Block, on: Machine) -> float:
    """Seconds of what needs no state: tokens of a chunk among themselves."""
    return block.length * _inside(shape) / on.rates.scan


def scan(shape: RecurrentShape, block: Block, on: Machine) -> float:
    """Seconds of the whole scan over a span."""
    flops = _inside(shape) + 4 * shape.state  # read, update
    if shape.transition is Transition.matrix:  # and what keys say of each other, and correct
        keys = shape.key_heads * shape.key_dim
        values = shape.heads * (shape.key_dim + shape.value_dim)
        flops += 2 * CHUNK * (keys + values) + 2 * shape.state
    return block.length * flops / on.rates.scan


def _inside(shape: RecurrentShape) -> int:
    return 2 * CHUNK * (shape.key_heads * shape.key_dim + shape.heads * shape.value_dim)


def _act(shape: RecurrentShape) -> int:
    """FLOPs of a transition on a state."""
    return 2 * shape.state * (1 if shape.transition is Transition.scalar else shape.key_dim)


def _transition(shape: RecurrentShape, block: Block, on: Machine) -> float:
    """Seconds of the matrix transition of a span that lies inside a document."""
    needed = not block.layout.derive(only_neighbours, block.ranks)
    if shape.transition is Transition.scalar or not needed:
        return 0.0
    return 4 * block.length * shape.transitions / on.rates.scan
