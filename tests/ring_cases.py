"""What the ranks of a row do to test attention across them: hard rows against one process."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from lmtrain.layout import SequenceLayout
from lmtrain.ops.attention import attend
from lmtrain.parallel.collectives import Traffic
from lmtrain.parallel.gather import gather, gather_bytes
from lmtrain.parallel.mesh import SequenceMesh
from lmtrain.parallel.ring import ring, ring_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lmtrain.parallel.collectives import Group

WIDTH = 4
HEADS = [(4, 2), (8, 8), (4, 1)]
STRATEGIES: dict[str, Callable[..., Tensor]] = {
    "ring": ring,
    "zigzag": partial(ring, zigzag=True),
    "gather": gather,
}


class Case(NamedTuple):
    """One row, and how to attend to it."""

    strategy: str
    lengths: tuple[int, ...]
    heads: tuple[int, int]
    window: int | None


def rows(length: int, world: int) -> dict[str, list[int]]:
    """Lengths of the documents of rows of ``world`` spans of ``length``."""
    n = length * world
    found = {
        "one document": [n],
        "a document a rank": [length] * world,
        "equal documents": [length // 2] * (2 * world),
        "halves astray": [length // 2, *[length] * (world - 1), length // 2],
        "ragged": [3, length + 1, 1, 1, n - length - 9, 3],
        "long among short": [5, n - 12, 7],
        "starts on a border": [length, n - length - 1, 1],
        "starts on last tokens": [length - 1, n - length, 1],
        "single tokens": [1] * length + [n - length],
        "empty rank": [n - length, length],
    }
    return {name: lengths for name, lengths in found.items() if min(lengths) >= 0}


def cases(length: int, world: int) -> Iterator[Case]:
    """Every strategy over every row; heads and windows take turns."""
    for strategy in STRATEGIES:
        for turn, lengths in enumerate(rows(length, world).values()):
            window = windows(length, world)[turn % 8]
            yield Case(strategy, tuple(lengths), HEADS[turn % 3], window)


def more_cases(length: int, world: int) -> Iterator[Case]:
    """Every strategy over every row without a window, and over one with each window and heads."""
    for strategy in STRATEGIES:
        for lengths in rows(length, world).values():
            yield Case(strategy, tuple(lengths), HEADS[0], None)
        long = tuple(rows(length, world)["long among short"])
        yield from (Case(strategy, long, HEADS[0], window) for window in windows(length, world))
        yield from (Case(strategy, long, heads, None) for heads in HEADS[1:])


def windows(length: int, world: int) -> list[int | None]:
    """Inside a span, as long, over several, over the row."""
    return [None, 5, length, length + 3, 1, 2 * length + 1, world * length, 1000]


def inputs(case: Case, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Queries, keys, values and the gradient of the output, of the whole row."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    query, key = ((sum(case.lengths), heads, WIDTH) for heads in case.heads)
    return [draw(shape).to(dtype) for shape in (query, key, key, query)]


def alone(case: Case) -> list[Tensor]:
    """Output and gradients of one process."""
    *qkv, grad = inputs(case)
    qkv = [x.requires_grad_() for x in qkv]
    layout = SequenceLayout.of_lengths(case.lengths)
    out = attend(*qkv, layout=layout, window=case.window)
    return [out.detach(), *torch.autograd.grad(out, qkv, grad)]


def shared(group: Group, case: Case, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Output and gradients of this rank; the bytes it sends are as many as was said."""
    layout = SequenceLayout.of_lengths(case.lengths).shard(group.rank, group.size)
    *qkv, grad = (x[layout.start : layout.stop] for x in inputs(case, dtype))
    qkv = [x.clone().requires_grad_() for x in qkv]
    before = group.traffic.sent
    out = STRATEGIES[case.strategy](*qkv, layout=layout, group=group, window=case.window)
    between = group.traffic.sent
    grads = torch.autograd.grad(out, qkv, grad)
    sent = between - before, group.traffic.sent - between
    assert sent == expected_bytes(case, layout, group.size, dtype), (case, sent)
    return [out.detach(), *grads]


def expected_bytes(
    case: Case, layout: SequenceLayout, ranks: int, dtype: torch.dtype
) -> tuple[int, int]:
    """Bytes that a rank sends forward and backward."""
    if case.strategy == "gather":
        return gather_bytes(layout, ranks, kv_heads=case.heads[1], head_dim=WIDTH, dtype=dtype)
    zigzag = case.strategy == "zigzag"
    shape: dict[str, Any] = {"heads": case.heads, "head_dim": WIDTH, "dtype": dtype}
    return ring_bytes(layout, ranks, window=case.window, zigzag=zigzag, **shape)


def worst(group: Group, case: Case, expected: list[Tensor]) -> float:
    """The largest error of output and gradients of this rank, relative to the largest entry.

    A window of one token leaves nothing to compare: its queries and keys have no gradient.
    """
    actual, errors = shared(group, case), [0.0]
    for x, y in zip(actual, expected, strict=True):
        mine = y.chunk(group.size)[group.rank]
        largest = y.abs().max()
        errors.append(float((x - mine).abs().max() / (largest if largest > 1e-9 else 1)))
        assert not x.isnan().any(), case
    return max(errors)


def errors(length: int) -> dict[Case, float]:
    """The error of each case on this rank of a real group."""
    torch.use_deterministic_algorithms(True)  # fills memory that nobody wrote with NaN
    world = dist.get_world_size()
    group = SequenceMesh.open(world, torch.device("cpu"), Traffic()).block(world)
    return {case: worst(group, case, alone(case)) for case in cases(length, world)}
