"""Ring attention: keys and values go round, every rank attends to those that are with it.

Liu et al. 2023 (arXiv 2310.01889). Keys move one rank a step, the next ones in flight while these
are computed with, and only as far as a document or a window lets somebody see them. Backward they
go round again; the gradients of keys and values follow one step behind, summed in at least fp32,
and go home from the last rank that sees the keys.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from lmtrain.ops.attention_blocks import Answered, Partial, attend_through, exact
from lmtrain.parallel.collectives import packed_size
from lmtrain.parallel.routes import routes
from lmtrain.parallel.zigzag import from_owners, to_owners, zigzag_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lmtrain.layout import SequenceLayout
    from lmtrain.parallel.collectives import Group, Spec
    from lmtrain.parallel.routes import Counts, Routes

Pair: TypeAlias = "tuple[Tensor, Tensor]"
"""Keys and values ``[s, g, d]``, or their gradients, of the last tokens of a stretch."""


def ring(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    layout: SequenceLayout,
    group: Group,
    window: int | None = None,
    zigzag: bool = False,
) -> Tensor:
    """Causal attention inside the documents of a row that the ranks of ``group`` share.

    Args:
        q: ``[t, h, d]``, the span of this rank.
        k: ``[t, g, d]``.
        v: ``[t, g, d]``.
        layout: the row of exactly these ranks, and this rank's span of it.
        group: the ranks, in the order of their spans.
        window: tokens that a token sees, itself included; None for its whole document.
        zigzag: each rank works on an early half span and a late one, so that all have equal work.

    Returns:
        ``[t, h, d]``.

    Raises:
        ValueError: the row is not equal spans of these ranks, or with ``zigzag`` equal half spans.
    """
    found = layout.derive(routes, group.size, window, zigzag)
    forward = partial(_forward, group=group, found=found)
    backward = partial(_backward, group=group, found=found)
    if not zigzag:
        return attend_through(q, k, v, forward, backward)
    q, k, v = to_owners(q, k, v, group=group)
    return from_owners(attend_through(q, k, v, forward, backward), group=group)[0]


def ring_bytes(
    layout: SequenceLayout,
    ranks: int,
    *,
    heads: tuple[int, int],
    head_dim: int,
    dtype: torch.dtype,
    window: int | None = None,
    zigzag: bool = False,
) -> tuple[int, int]:
    """Bytes that the rank whose span ``layout`` is sends forward and backward.

    ``heads`` are those of queries and of keys. Raises what `ring` raises.
    """
    found, rank = layout.derive(routes, ranks, window, zigzag), layout.start // len(layout)
    row = heads[1], head_dim
    there = sum(packed_size(_specs(found.onward(rank, s), row, dtype)) for s in range(ranks))
    back = sum(
        packed_size(_specs(counts, row, exact(dtype)))
        for s in range(ranks + 1)
        for counts in (found.followed(rank, s), found.returned(rank, s))
    )
    moved = zigzag_bytes(len(layout), rank, ranks, heads=heads, head_dim=head_dim, dtype=dtype)
    both = moved if zigzag else 0
    return there + both, there + back + both


def _forward(q: Tensor, k: Tensor, v: Tensor, group: Group, found: Routes) -> tuple[Tensor, Tensor]:
    result, held = Partial.empty(q), _owned(k, v, found)
    for step, meetings in enumerate(found.steps[:-1]):
        arriving = _relay(held, step, group, found)
        near = _last(held, found.of(group.rank, step).seen[step])
        for stretch, tile in meetings:
            result.meet(tile, q, *near[stretch])
        held = arriving()
    return result.out.to(q.dtype), result.lse


def _relay(held: list[Pair], step: int, group: Group, found: Routes) -> Callable[[], list[Pair]]:
    """Send on the keys that are here at ``step``; gives those of the next step."""
    rank, like = group.rank, held[0][0]
    coming = _specs(found.onward(rank - 1, step), like.shape[1:], like.dtype)
    wait = group.exchange(
        [(_rank(group, 1), _flat(_last(held, found.onward(rank, step))))],
        [(_rank(group, -1), coming)],
    )
    return lambda: _pairs(wait()[0])


def _backward(
    answered: Answered, k: Tensor, v: Tensor, group: Group, found: Routes
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = answered.lse.dtype
    dq, held = torch.zeros_like(answered.q, dtype=dtype), _owned(k, v, found)
    home = sums = _zeros(held, dtype)
    for step, meetings in enumerate(found.steps):
        arriving = _relay_back(held, sums, step, group, found)
        near = _last(held, found.of(group.rank, step).seen[step])
        own = _zeros(near, dtype) if step else home
        for stretch, tile in meetings:
            answered.contribute(tile, *near[stretch], dq, *own[stretch])
        held, followed, returned = arriving()
        home, sums = _add(home, returned), _add(followed, own)
    dk, dv = (torch.cat(parts) for parts in zip(*home, strict=True))
    return dq.to(answered.q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def _relay_back(
    held: list[Pair], sums: list[Pair], step: int, group: Group, found: Routes
) -> Callable[[], tuple[list[Pair], list[Pair], list[Pair]]]:
    """Send on the keys of ``step`` and the gradients of the keys of the step before it.

    Gives keys, the gradients that belong to those here now, and gradients that came home.
    """
    rank, last = group.rank, step - 1
    like, exact_like = held[0][0], sums[0][0]
    row, dtype, wide = like.shape[1:], like.dtype, exact_like.dtype
    follow = _flat(_last(sums, found.followed(rank, step)))
    wait = group.exchange(
        [
            (_rank(group, 1), _flat(_last(held, found.onward(rank, step))) + follow),
            (_rank(group, -last), _flat(_last(sums, found.returned(rank, step)))),
        ],
        [
            (
                _rank(group, -1),
                _specs(found.onward(rank - 1, step), row, dtype)
                + _specs(found.followed(rank - 1, step), row, wide),
            ),
            (_rank(group, last), _specs(found.returned(rank + last, step), row, wide)),
        ],
    )

    def arrive() -> tuple[list[Pair], list[Pair], list[Pair]]:
        came, returned = wait()
        keys = 2 * len(held)
        return _pairs(came[:keys]), _pairs(came[keys:]), _pairs(returned)

    return arrive


def _rank(group: Group, distance: int) -> int:
    return (group.rank + distance) % group.size


def _owned(k: Tensor, v: Tensor, found: Routes) -> list[Pair]:
    """The stretches of this rank: equally long."""
    count = len(found.routes[0].seen[0])
    return list(zip(k.chunk(count), v.chunk(count), strict=True))


def _last(pairs: Iterable[Pair], counts: Counts) -> list[Pair]:
    """The last tokens of each stretch."""
    return [(k[len(k) - n :], v[len(v) - n :]) for (k, v), n in zip(pairs, counts, strict=True)]


def _zeros(pairs: Iterable[Pair], dtype: torch.dtype) -> list[Pair]:
    return [(torch.zeros_like(k, dtype=dtype), torch.zeros_like(v, dtype=dtype)) for k, v in pairs]


def _add(a: list[Pair], b: list[Pair]) -> list[Pair]:
    """The sums for the last tokens of each stretch, as many as the longer of the two has."""
    return [(_add_last(x, y), _add_last(z, w)) for (x, z), (y, w) in zip(a, b, strict=True)]


def _add_last(x: Tensor, y: Tensor) -> Tensor:
    longer, shorter = (x, y) if len(x) >= len(y) else (y, x)
    longer[len(longer) - len(shorter) :] += shorter
    return longer


def _flat(pairs: Iterable[Pair]) -> list[Tensor]:
    return [x for pair in pairs for x in pair]


def _pairs(tensors: Sequence[Tensor]) -> list[Pair]:
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def _specs(counts: Counts, row: Sequence[int], dtype: torch.dtype) -> list[Spec]:
    """Of keys and values of each stretch."""
    return [((n, *row), dtype) for n in counts for _ in "kv"]
