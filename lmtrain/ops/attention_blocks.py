"""Attention over tiles: partial results merged by their normalisers, gradients from the final ones.

``lse`` is the logarithm of the sum of exponentiated scores of a query; a query that has met no key
yet has ``lse = -inf`` and output 0. Outputs, ``lse`` and gradients are gathered in at least fp32.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from lmtrain.ops.attention_kernels import attend_tile, tile_gradients
from lmtrain.ops.remat import keep, remember
from lmtrain.ops.tiles import Places, Shape, Tile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Partial(NamedTuple):
    """What queries have seen so far: ``out [t, h, d]``, ``lse [t, h]``, changed in place."""

    out: Tensor
    lse: Tensor

    @classmethod
    def empty(cls, q: Tensor) -> Partial:
        """The queries ``q [t, h, d]`` have seen nothing."""
        dtype = exact(q.dtype)
        out = torch.zeros_like(q, dtype=dtype, memory_format=torch.contiguous_format)
        return cls(out, out.new_full(q.shape[:-1], -torch.inf))

    def meet(self, tile: Tile, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Let the queries of a tile of ``q [t, h, d]`` see its keys in ``k, v [s, g, d]``."""
        flip = tile.shape is Shape.FLIPPED
        q, k, v = _read(tile.queries, flip, q), _read(tile.keys, flip, k), _read(tile.keys, flip, v)
        found = attend_tile(q, k, v, causal=tile.shape is not Shape.FULL)
        out, lse = (x.flip(1) if flip else x for x in found)
        before = tile.queries.read(self.out), tile.queries.read(self.lse)
        out, lse = merge(*before, out, lse)
        tile.queries.write(self.out, out)
        tile.queries.write(self.lse, lse)


class Answered(NamedTuple):
    """Queries with their results over all keys, ``[t, h, d]``, and ``lse [t, h]``."""

    q: Tensor
    out: Tensor
    lse: Tensor
    grad: Tensor
    """The gradient of ``out``."""

    def contribute(
        self, tile: Tile, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor
    ) -> None:
        """Add to ``dq [t, h, d], dk, dv [s, g, d]`` what the pairs of a tile give."""
        flip = tile.shape is Shape.FLIPPED
        q, out, lse, grad = (_read(tile.queries, flip, x) for x in self)
        k, v = (_read(tile.keys, flip, x) for x in (k, v))
        causal = tile.shape is not Shape.FULL
        parts = tile_gradients(grad, q, k, v, out, lse, causal=causal)
        for sums, part, places in zip(
            (dq, dk, dv), parts, (tile.queries, tile.keys, tile.keys), strict=True
        ):
            places.add(sums, part.flip(1) if flip else part)


def exact(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which results of tiles are summed: fp32, or fp64 for fp64."""
    return torch.promote_types(dtype, torch.float32)


def merge(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Results over two disjoint sets of keys as one: ``[…, d]``, normalisers ``[…]``.

    Weights come from the difference of the normalisers: nothing overflows, and their sum is one
    however large they are.
    """
    total, ahead = torch.logaddexp(lse, more_lse), lse - more_lse
    unseen = total == -torch.inf  # by either: both weights are 0
    weight, more_weight = (x.sigmoid().masked_fill(unseen, 0)[..., None] for x in (ahead, -ahead))
    return out * weight + more.to(out.dtype) * more_weight, total


def attend_tiles(q: Tensor, k: Tensor, v: Tensor, tiles: Iterable[Tile]) -> Tensor:
    """Attention of ``q [t, h, d]`` over those of ``k, v [s, g, d]`` that tiles make visible.

    Every query sees at least one key.
    """
    out: Tensor = _Tiles.apply(q, k, v, tuple(tiles))  # type: ignore[assignment]
    return out


class _Tiles(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, tiles: tuple[Tile, ...]) -> Tensor:
        def compute() -> tuple[Tensor, Tensor]:
            result = Partial.empty(q)
            for tile in tiles:
                result.meet(tile, q, k, v)
            return result.out.to(q.dtype), result.lse

        out, lse = keep(compute)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.tiles = tiles
        return out.detach()  # what is kept stays out of the graph

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out, lse = ctx.saved_tensors
        answered = Answered(q, out, lse, grad)
        sums = [torch.zeros_like(x, dtype=lse.dtype) for x in (q, k, v)]
        for tile in ctx.tiles:
            answered.contribute(tile, k, v, *sums)
        dq, dk, dv = (total.to(x.dtype) for total, x in zip(sums, (q, k, v), strict=True))
        return dq, dk, dv, None


def attend_through(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    forward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    backward: Callable[[Answered, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
) -> Tensor:
    """Attention ``[t, h, d]`` whose keys are not all here: the caller brings them, both ways.

    ``forward`` gives the output and its ``lse``, which a recomputation remembers; ``backward``
    gives the gradients of ``q, k, v``.
    """
    return _Through.apply(q, k, v, forward, backward)  # type: ignore[return-value]


class _Through(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, forward: Any, backward: Any) -> Tensor:
        out, lse = remember(lambda: partial(forward, q, k, v))()
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.through = backward
        return out.detach()  # what is remembered stays out of the graph

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out, lse = ctx.saved_tensors
        return *ctx.through(Answered(q, out, lse, grad), k, v), None, None


def _read(places: Places, flip: bool, x: Tensor) -> Tensor:  # noqa: FBT001
    found = places.read(x)
    return found.flip(1) if flip else found
