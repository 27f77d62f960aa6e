"""Ulysses: trade the span of a row for some heads of all of it, run the kernel, trade back.

Jacobs et al. 2023 (arXiv 2309.14509), for any kernel and any heads: groups of heads may be uneven,
and keys or groups fewer than the ranks are sent to every rank that needs them.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lmtrain.ops.remat import remember

if TYPE_CHECKING:
    from lmtrain.layout import SequenceLayout
    from lmtrain.ops.kernel import Kernel
    from lmtrain.parallel.collectives import Group, Spec


def ulysses(kernel: Kernel, *tensors: Tensor, layout: SequenceLayout, group: Group) -> Tensor:
    """``kernel`` over the spans of all ranks of ``group`` together, each with a share of the heads.

    ``tensors`` are ``[t, heads, …]``; the largest number of heads is that of the output, and the
    others divide it.
    """
    heads = max(x.shape[1] for x in tensors)
    parts: tuple[Tensor, ...] = _ToHeads.apply(group, heads, *tensors)  # type: ignore[assignment]
    parts = tuple(_expand(x, y.shape[1], heads, group) for x, y in zip(parts, tensors, strict=True))
    first = layout.start - group.rank * len(layout)
    everywhere = replace(layout, start=first, stop=first + group.size * len(layout))
    out = kernel(*parts, layout=layout.derive(_gathered, everywhere))
    return _ToTokens.apply(group, heads, out)  # type: ignore[return-value]


def _gathered(_: SequenceLayout, everywhere: SequenceLayout) -> SequenceLayout:
    """One object for every layer of a batch, so that its index tensors are built once."""
    return everywhere


def shares(heads: int, ranks: int) -> list[tuple[int, int]]:
    """The heads ``[first, end)`` of each rank: as even as they can be."""
    return list(pairwise(rank * heads // ranks for rank in range(ranks + 1)))


def needed(own: int, heads: int, ranks: int) -> list[tuple[int, int]]:
    """Which of a tensor's ``own`` heads each rank needs to serve its share of ``heads``."""
    return [(a * own // heads, -(-b * own // heads)) for a, b in shares(heads, ranks)]


def _expand(x: Tensor, own: int, heads: int, group: Group) -> Tensor:
    """One head for each of this rank's, where those that came do not serve equally many."""
    first, end = shares(heads, group.size)[group.rank]
    came = needed(own, heads, group.size)[group.rank][0]
    serving = [head * own // heads - came for head in range(first, end)]
    even = [i * x.shape[1] // len(serving) for i in range(len(serving))]
    if len(serving) % x.shape[1] == 0 and serving == even:
        return x
    return torch.stack([x[:, head] for head in serving], 1)


class _ToHeads(torch.autograd.Function):
    """``[t, h, …]`` here to ``[n t, some h, …]``: one all-to-all for all tensors."""

    @staticmethod
    def forward(ctx: Any, group: Group, heads: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        ctx.needed = [needed(x.shape[1], heads, group.size) for x in tensors]
        ctx.heads = [x.shape[1] for x in tensors]
        ours = [spans[group.rank] for spans in ctx.needed]
        specs: list[Spec] = [
            ((len(x), b - a, *x.shape[2:]), x.dtype)
            for x, (a, b) in zip(tensors, ours, strict=True)
        ]

        def start() -> Any:
            sends = [
                [x[:, slice(*spans[rank])] for x, spans in zip(tensors, ctx.needed, strict=True)]
                for rank in range(group.size)
            ]
            wait = group.all_to_all(sends, [specs] * group.size)
            return lambda: [torch.cat(parts) for parts in zip(*wait(), strict=True)]

        return tuple(remember(start)())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        group: Group = ctx.group
        sends = list(zip(*(x.chunk(group.size) for x in grads), strict=True))
        length = len(grads[0]) // group.size
        specs: list[list[Spec]] = [
            [
                ((length, spans[rank][1] - spans[rank][0], *x.shape[2:]), x.dtype)
                for x, spans in zip(grads, ctx.needed, strict=True)
            ]
            for rank in range(group.size)
        ]
        back = list(zip(*group.all_to_all(sends, specs)(), strict=True))
        sums = [
            _sum_heads(parts, spans, heads)
            for parts, spans, heads in zip(back, ctx.needed, ctx.heads, strict=True)
        ]
        return None, None, *sums


def _sum_heads(parts: tuple[Tensor, ...], spans: list[tuple[int, int]], heads: int) -> Tensor:
    """``[t, heads, …]``: gradients of heads that several ranks had are added in at least fp32."""
    length, _, *rest = parts[0].shape
    dtype = torch.promote_types(parts[0].dtype, torch.float32)
    total = parts[0].new_zeros(length, heads, *rest, dtype=dtype)
    for part, (first, end) in zip(parts, spans, strict=True):
        total[:, first:end] += part
    return total.to(parts[0].dtype)


class _ToTokens(torch.autograd.Function):
    """``[n t, some h, …]`` to ``[t, h, …]`` here."""

    @staticmethod
    def forward(ctx: Any, group: Group, heads: int, x: Tensor) -> Tensor:
        ctx.group, ctx.shares = group, shares(heads, group.size)
        length = len(x) // group.size

        def start() -> Any:
            specs: list[list[Spec]] = [
                [((length, b - a, *x.shape[2:]), x.dtype)] for a, b in ctx.shares
            ]
            wait = group.all_to_all([[part] for part in x.chunk(group.size)], specs)
            return lambda: torch.cat([part for (part,) in wait()], 1)

        return remember(start)()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        group: Group = ctx.group
        a, b = ctx.shares[group.rank]
        spec: Spec = ((len(grad), b - a, *grad.shape[2:]), grad.dtype)
        sends = [[grad[:, first:end]] for first, end in ctx.shares]
        parts = group.all_to_all(sends, [[spec]] * group.size)()
        return None, None, torch.cat([part for (part,) in parts])
