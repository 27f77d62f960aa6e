"""Softmax attention over packed documents, by torch's fused attention.

Documents of one length are one batch; the distinct lengths of a row of ``t`` tokens number at most
``sqrt(2 t)``, so the loop over them is short. Memory is linear in the row; with a window, so is
time: each block of queries meets only its own block of keys and those that the window reaches.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmtrain.ops.attention_blocks import attend_tiles
from lmtrain.ops.attention_kernels import flash_takes
from lmtrain.ops.tiles import Tile, visible

if TYPE_CHECKING:
    from lmtrain.layout import SequenceLayout


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    layout: SequenceLayout,
    keys: SequenceLayout | None = None,
    window: int | None = None,
) -> Tensor:
    """Causal attention inside documents: ``q [t, h, d], k, v [s, g, d] -> [t, h, d]``.

    Each of the ``g`` key heads serves ``h / g`` consecutive query heads. With ``window``, a token
    sees itself and the ``window - 1`` tokens before it. ``keys`` is the layout of ``k`` and ``v``
    where they hold tokens before the span (a halo, or a cache); it ends where the span ends.
    """
    if keys is None or keys.start == layout.start:
        return _attend_documents(q, k, v, layout, window)
    if len(layout) == 1:
        return _attend_last(q, k, v, layout, window)
    return attend_tiles(q, k, v, layout.derive(_tiles, keys.start, window))


def _tiles(layout: SequenceLayout, start: int, window: int | None) -> list[Tile]:
    """What a span sees of itself, and of the keys from ``start`` on before it."""
    span, before = (layout.start, layout.stop), layout.start - start
    return [
        *visible(layout.bounds, span, span, window, at=(0, before)),
        *visible(layout.bounds, span, (start, layout.start), window),
    ]


def _attend_last(
    q: Tensor, k: Tensor, v: Tensor, layout: SequenceLayout, window: int | None
) -> Tensor:
    """One query, the last token, over the keys of its document: no mask needed."""
    visible = 1 + layout.lookback(len(k) if window is None else window)
    return _sdpa(q[None], k[None, -visible:], v[None, -visible:], causal=False)[0]


def _attend_documents(
    q: Tensor, k: Tensor, v: Tensor, layout: SequenceLayout, window: int | None
) -> Tensor:
    if layout.uniform:
        q, k, v = (x.unflatten(0, layout.uniform) for x in (q, k, v))
        return _attend_equal(q, k, v, window).flatten(0, 1)
    order = layout.derive(_by_length)
    out: list[Tensor] = []
    parts = (x.index_select(0, order.tokens).split(order.sizes) for x in (q, k, v))
    for length, *part in zip(order.lengths, *parts, strict=True):
        q_, k_, v_ = (x.unflatten(0, (-1, length)) for x in part)
        out.append(_attend_equal(q_, k_, v_, window).flatten(0, 1))
    return torch.cat(out).index_select(0, order.places)


class _ByLength(NamedTuple):
    """The documents of a span in the order of their lengths."""

    lengths: list[int]
    """Each that occurs, once."""
    sizes: list[int]
    """Tokens in documents of each length."""
    tokens: Tensor
    """``[t]``: the token at each place of this order."""
    places: Tensor
    """``[t]``: the place of each token."""


def _by_length(layout: SequenceLayout) -> _ByLength:
    """Counted on the host: a card would be waited for once for every length."""
    lengths = np.asarray(layout.lengths)
    different, counts = np.unique(lengths, return_counts=True)
    tokens = np.repeat(lengths, lengths).argsort(kind="stable")
    maps = (layout.tensor(x) for x in (tokens, tokens.argsort()))
    return _ByLength(different.tolist(), (different * counts).tolist(), *maps)


def _attend_equal(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """Documents of one length: ``[n, length, heads, d]``."""
    length = q.shape[1]
    if window is None or window >= length:
        return _sdpa(q, k, v, causal=True)
    return _attend_band(q, k, v, window)


def _attend_band(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Blocks of queries over the keys that their window reaches: time ``length * window``.

    Blocks of half a window see three blocks of keys, two thirds of which count.
    """
    length = q.shape[1]
    block = max(16, (1 << (window - 1).bit_length()) // 2)
    blocks = -(-length // block)
    reach = max(1, -(-(window - 1) // block))  # blocks of keys before that of the query
    tail = blocks * block - length
    q = F.pad(q, (0, 0, 0, 0, 0, tail)).unflatten(1, (blocks, block))
    k, v = (F.pad(x, (0, 0, 0, 0, reach * block, tail)).unflatten(1, (-1, block)) for x in (k, v))
    k, v = (torch.cat([x[:, i : i + blocks] for i in range(reach + 1)], 2) for x in (k, v))
    # the first blocks also hide the padding before the document; the others share one mask
    first = min(reach, blocks)
    mask = _band(reach + 1, block, window, q.device)
    head, rest = (
        [x[:, :first].flatten(0, 1) for x in (q, k, v)],
        [x[:, first:].flatten(0, 1) for x in (q, k, v)],
    )
    out = [_sdpa(*head, mask=mask[:first].repeat(len(q), 1, 1, 1)).unflatten(0, (-1, first))]
    if blocks > first:
        shared = mask[-1:]
        out.append(_sdpa(*rest, mask=shared).unflatten(0, (-1, blocks - first)))
    return torch.cat(out, 1).flatten(1, 2)[:, :length]


@cache
def _band(blocks: int, block: int, window: int, device: torch.device) -> Tensor:
    """``[blocks, 1, block, blocks * block]`` bool: what query ``i`` of block ``b`` may see, when
    its keys are the ``blocks`` blocks that end with its own."""
    query = torch.arange(block, device=device)[:, None] + (blocks - 1) * block
    key = torch.arange(blocks * block, device=device)[None]
    seen = (key <= query) & (query - key < window)
    absent = (blocks - 1 - torch.arange(blocks, device=device)) * block
    return (seen & (key >= absent[:, None, None]))[:, None]


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """torch's attention on ``[n, length, heads, d]``."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    if grouped and q.is_cuda and not (mask is None and flash_takes(q)):
        # memory-efficient attention wants as many key heads; without it torch computes the square
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
        grouped = False
    out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=grouped)
    return out.transpose(1, 2)
