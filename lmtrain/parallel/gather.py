"""Attention over gathered keys: every rank gets the keys and values of all, its queries stay.

The part of a rank's own keys is computed while the others' come. Backward gathers again, so that
nothing longer than a span is kept, and sums the gradients where their keys live, in at least fp32.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lmtrain.ops.attention_blocks import Answered, Partial, attend_through, exact
from lmtrain.ops.tiles import Tile, visible
from lmtrain.parallel.routes import check

if TYPE_CHECKING:
    from collections.abc import Callable

    from lmtrain.layout import SequenceLayout
    from lmtrain.parallel.collectives import Group


class View(NamedTuple):
    """What a rank's queries see."""

    own: list[Tile]
    """Of the keys of its span."""
    earlier: list[Tile]
    """Of the keys of the row."""


def gather(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    layout: SequenceLayout,
    group: Group,
    window: int | None = None,
) -> Tensor:
    """Causal attention inside the documents of a row that the ranks of ``group`` share.

    Args:
        q: ``[t, h, d]``, the span of this rank.
        k: ``[t, g, d]``.
        v: ``[t, g, d]``.
        layout: the row of exactly these ranks, and this rank's span of it.
        group: the ranks, in the order of their spans.
        window: tokens that a token sees, itself included; None for its whole document.

    Returns:
        ``[t, h, d]``.

    Raises:
        ValueError: the row is not equal spans of these ranks.
    """
    view = layout.derive(_view, group.size, window)
    forward = partial(_forward, group=group, view=view)
    backward = partial(_backward, group=group, view=view)
    return attend_through(q, k, v, forward, backward)


def gather_bytes(
    layout: SequenceLayout, ranks: int, *, kv_heads: int, head_dim: int, dtype: torch.dtype
) -> tuple[int, int]:
    """Bytes that each rank sends forward and backward, whatever the documents are."""
    numbers = (ranks - 1) * 2 * len(layout) * kv_heads * head_dim
    return numbers * dtype.itemsize, numbers * (dtype.itemsize + exact(dtype).itemsize)


def _view(layout: SequenceLayout, ranks: int, window: int | None) -> View:
    check(layout, ranks)
    span = layout.start, layout.stop
    earlier = visible(layout.bounds, span, (0, layout.start), window) if layout.start else []
    return View(visible(layout.bounds, span, span, window), earlier)


def _forward(q: Tensor, k: Tensor, v: Tensor, group: Group, view: View) -> tuple[Tensor, Tensor]:
    arriving, result = _everywhere(k, v, group), Partial.empty(q)
    for tile in view.own:
        result.meet(tile, q, k, v)
    everywhere = arriving()
    for tile in view.earlier:
        result.meet(tile, q, *everywhere)
    return result.out.to(q.dtype), result.lse


def _backward(
    answered: Answered, k: Tensor, v: Tensor, group: Group, view: View
) -> tuple[Tensor, Tensor, Tensor]:
    arriving, dtype = _everywhere(k, v, group), answered.lse.dtype
    dq = torch.zeros_like(answered.q, dtype=dtype)
    own = k.new_zeros(len(k), 2, *k.shape[1:], dtype=dtype)
    for tile in view.own:
        answered.contribute(tile, k, v, dq, *own.unbind(1))
    everywhere = arriving()
    total = own.new_zeros(group.size, *own.shape)
    for tile in view.earlier:
        sums = total.flatten(0, 1).unbind(1)
        answered.contribute(tile, *everywhere, dq, *sums)
    dk, dv = (own + group.reduce_scatter(total)()).unbind(1)
    return dq.to(answered.q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def _everywhere(k: Tensor, v: Tensor, group: Group) -> Callable[[], tuple[Tensor, Tensor]]:
    """Gather keys and values: each ``[row, g, d]``, two views of one tensor."""
    wait = group.all_gather(torch.stack([k, v], 1))

    def arrive() -> tuple[Tensor, Tensor]:
        keys, values = wait().flatten(0, 1).unbind(1)
        return keys, values

    return arrive
