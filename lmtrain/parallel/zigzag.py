"""Zigzag: the spans of a row, cut in halves, to the ranks that work on them, and back.

Of ``n`` ranks, rank ``i`` owns halves ``i`` and ``2n - 1 - i``: together as much to attend to as
those of any other. Each rank sends at most two messages and gets at most two. Tokens only move, so
their gradients move as they are.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from lmtrain.ops.remat import remember
from lmtrain.parallel.collectives import packed_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lmtrain.parallel.collectives import Group


def to_owners(*tensors: Tensor, group: Group) -> tuple[Tensor, ...]:
    """From each ``[t, …]`` of the span the one of the two half spans that this rank owns."""
    return _Move.apply(group, False, *tensors)  # type: ignore[return-value]


def from_owners(*tensors: Tensor, group: Group) -> tuple[Tensor, ...]:
    """From each ``[t, …]`` of the half spans that this rank owns the one of its span."""
    return _Move.apply(group, True, *tensors)  # type: ignore[return-value]


def zigzag_bytes(
    length: int, rank: int, ranks: int, *, heads: tuple[int, int], head_dim: int, dtype: torch.dtype
) -> int:
    """Bytes that ``rank`` sends to move q, k and v to their owners and the output back.

    As many move backward. ``length`` is that of a span; ``heads`` those of queries and of keys.
    """
    one, shared = (((length // 2, n, head_dim), dtype) for n in heads)
    away = sum(_holder(x, ranks, zigzag=True) != rank for x in _halves(rank, ranks, zigzag=False))
    home = sum(_holder(x, ranks, zigzag=False) != rank for x in _halves(rank, ranks, zigzag=True))
    return away * packed_size([one, shared, shared]) + home * packed_size([one])


class _Move(Function):
    @staticmethod
    def forward(ctx: Any, group: Group, back: bool, *tensors: Tensor) -> tuple[Tensor, ...]:  # noqa: FBT001
        ctx.group, ctx.back = group, back
        moved: tuple[Tensor, ...] = remember(partial(_move, tensors, group, back=back))()
        return tuple(x.detach() for x in moved)  # what is remembered stays out of the graph

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, None, *_move(grads, ctx.group, back=not ctx.back)()


def _move(
    tensors: Sequence[Tensor], group: Group, *, back: bool
) -> Callable[[], tuple[Tensor, ...]]:
    """Send each half to where it belongs; a half that stays is not sent."""
    here, size = group.rank, group.size
    halves = dict(
        zip(
            _halves(here, size, zigzag=back),
            zip(*(x.chunk(2) for x in tensors), strict=True),
            strict=True,
        )
    )
    wanted = _halves(here, size, zigzag=not back)
    targets = {half: _holder(half, size, zigzag=not back) for half in halves}
    sources = {half: _holder(half, size, zigzag=back) for half in wanted}
    specs = [((len(x) // 2, *x.shape[1:]), x.dtype) for x in tensors]
    wait = group.exchange(
        [(rank, halves[half]) for half, rank in targets.items() if rank != here],
        [(rank, specs) for rank in sources.values() if rank != here],
    )

    def arrive() -> tuple[Tensor, ...]:
        came = iter(wait())
        found = [halves[half] if half in halves else next(came) for half in wanted]
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))

    return arrive


def _halves(rank: int, ranks: int, *, zigzag: bool) -> tuple[int, int]:
    """Which halves of spans, counted in the row, a rank has: its own span's, or those it owns."""
    return (rank, 2 * ranks - 1 - rank) if zigzag else (2 * rank, 2 * rank + 1)


def _holder(half: int, ranks: int, *, zigzag: bool) -> int:
    """Which rank has a half."""
    return min(half, 2 * ranks - 1 - half) if zigzag else half // 2
