"""Halo: the few tokens before a span that a window or a short convolution reaches.

A rank gets them from as many ranks before it as they lie on, and never a token of a document that
does not enter its span.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from lmtrain.layout import SequenceLayout
from lmtrain.ops.remat import remember

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmtrain.ops.kernel import Convolve
    from lmtrain.parallel.collectives import Group


class WindowKernel(Protocol):
    """Attention whose keys begin before the span: ``keys`` is their layout."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, layout: SequenceLayout, keys: SequenceLayout
    ) -> Tensor:
        """``[t, h, v]``."""
        ...


def halo_attention(
    kernel: WindowKernel, window: int, *qkv: Tensor, layout: SequenceLayout, group: Group
) -> Tensor:
    """Windowed attention over the span, keys and values of its halo included."""
    q, k, v = qkv
    k, v = widen(k, v, left=window - 1, layout=layout, group=group)
    return kernel(
        q, k, v, layout=layout, keys=layout.derive(SequenceLayout.widened, len(k) - len(q))
    )


def halo_convolution(
    kernel: Convolve,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    widths: Sequence[int],
    *,
    layout: SequenceLayout,
    group: Group,
) -> tuple[Tensor, ...]:
    """A short convolution over the span, its first taps meeting the halo."""
    (wide,) = widen(x, left=len(weight) - 1, layout=layout, group=group)
    before = len(wide) - len(x)
    found = kernel(wide, weight, bias, widths, layout=layout.derive(SequenceLayout.widened, before))
    return tuple(y[before:] for y in found)


def widen(*tensors: Tensor, left: int, layout: SequenceLayout, group: Group) -> tuple[Tensor, ...]:
    """Each ``[t, …]`` with the rows before the span that its first document has within ``left``.

    Between 0 and ``left`` rows are added. Gradients of the halo return to their owners in at least
    fp32 and are added there.
    """
    return _Widen.apply(layout, group, left, *tensors)  # type: ignore[return-value]


def messages(layout: SequenceLayout, ranks: int, left: int) -> list[tuple[int, int, int, int]]:
    """Every message of a halo: (from rank, to rank, first token, end), in one order on all ranks.

    Tokens are counted in the row.
    """
    length, found = len(layout), []
    for rank, span in enumerate(layout.derive(SequenceLayout.spans, ranks)):
        first = span.start - span.lookback(left + 1)
        for source in range(first // length, rank):
            end = (source + 1) * length
            found.append((source, rank, max(first, source * length), end))
    return found


class _Widen(torch.autograd.Function):
    """One message from each rank that owns a part of the halo, and one back in the backward."""

    @staticmethod
    def forward(
        ctx: Any, layout: SequenceLayout, group: Group, left: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        every = layout.derive(messages, group.size, left)
        ctx.group = group
        ctx.sent = [
            (to, a - layout.start, b - layout.start) for r, to, a, b in every if r == group.rank
        ]
        ctx.received = [(r, b - a) for r, to, a, b in every if to == group.rank]

        def start() -> Any:
            return group.exchange(
                [(to, [x[a:b] for x in tensors]) for to, a, b in ctx.sent],
                [(r, [((n, *x.shape[1:]), x.dtype) for x in tensors]) for r, n in ctx.received],
            )

        parts = remember(start)()
        return tuple(torch.cat([*before, x]) for *before, x in zip(*parts, tensors, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        group: Group = ctx.group
        sizes = [n for _, n in ctx.received]
        dtypes = [torch.promote_types(x.dtype, torch.float32) for x in grads]
        halo = [x[: sum(sizes)].to(d).split(sizes) for x, d in zip(grads, dtypes, strict=True)]
        owed = [
            (to, [((b - a, *x.shape[1:]), d) for x, d in zip(grads, dtypes, strict=True)])
            for to, a, b in ctx.sent
        ]
        back = [
            (r, parts) for (r, _), parts in zip(ctx.received, zip(*halo, strict=True), strict=True)
        ]
        wait = group.exchange(back, owed)
        inner = [x[sum(sizes) :].to(d) for x, d in zip(grads, dtypes, strict=True)]
        if owed:
            inner = [x.clone() for x in inner]
        for (_, a, b), parts in zip(ctx.sent, wait(), strict=True):
            for x, part in zip(inner, parts, strict=True):
                x[a:b] += part
        return None, None, None, *(x.to(y.dtype) for x, y in zip(inner, grads, strict=True))
