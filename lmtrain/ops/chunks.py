"""The grid of chunks that a recurrence works on, and the decays inside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from lmtrain.layout import SequenceLayout

CHUNK = 64
"""Tokens of a chunk."""


@dataclass(frozen=True)
class ChunkMasks:
    """Where documents lie in the chunks of one mixed row, as 0/1 factors in fp32.

    ``visible [n, 1, 1, c, c]``: key and query share a document; ``inflow [n, 1, 1, c, 1]``: the
    token still sees the state that entered its chunk; ``outflow [n, 1, 1, c, 1]``: the token
    reaches the state that leaves it; ``carry [n, 1, 1, 1, 1]``: the entering state survives it.
    """

    visible: Tensor
    inflow: Tensor
    outflow: Tensor
    carry: Tensor


@dataclass(frozen=True)
class ChunkGrid:
    """A span as ``rows`` sequences of ``chunks`` chunks of ``size`` tokens.

    Equal documents become one row each and need no mask; any other packing is one row, whose
    documents are told apart by ``masks``. Rows are padded at their end with neutral tokens (all
    inputs zero), which change neither state nor outputs.
    """

    rows: int
    length: int
    chunks: int
    size: int
    continues: bool
    masks: ChunkMasks | None

    @classmethod
    def build(cls, layout: SequenceLayout, size: int) -> ChunkGrid:
        """The grid of a layout for chunks of at most ``size`` tokens."""
        rows, length = layout.uniform or (1, len(layout))
        size = min(size, max(16, 1 << (length - 1).bit_length()))
        chunks = -(-length // size)
        grid = cls(rows, length, chunks, size, layout.continues, None)
        if layout.uniform:
            return grid
        return cls(rows, length, chunks, size, layout.continues, _masks(layout, chunks, size))

    def split(self, x: Tensor, groups: int) -> Tensor:
        """``[t, h, d]`` to ``[chunks, rows * groups, h / groups, size, d]``, at least fp32."""
        return self.split_wide(x, groups).transpose(2, 3).contiguous()

    def split_wide(self, x: Tensor, groups: int) -> Tensor:
        """The same with heads after tokens, ``[…, size, h / groups, d]``: a view where it can."""
        heads, width = x.shape[1:]
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        x = x.reshape(self.rows, self.length, heads, width)
        if missing := self.chunks * self.size - self.length:
            x = F.pad(x, (0, 0, 0, 0, 0, missing))
        x = x.view(self.rows, self.chunks, self.size, groups, heads // groups, width)
        return x.permute(1, 0, 3, 2, 4, 5).flatten(1, 2)

    def join(self, x: Tensor) -> Tensor:
        """The inverse of ``split``."""
        return self.join_wide(x.transpose(2, 3))

    def join_wide(self, x: Tensor) -> Tensor:
        """The inverse of ``split_wide``."""
        x = x.unflatten(1, (self.rows, -1)).permute(1, 0, 3, 2, 4, 5)
        x = x.reshape(self.rows, self.chunks * self.size, -1, x.shape[-1])
        return x[:, : self.length].reshape(self.rows * self.length, -1, x.shape[-1])

    def cumulate(self, x: Tensor) -> Tensor:
        """Inclusive sums of ``[n, x, r, c, 1]`` along the chunk, from the start of each document.

        Sums never cross a document, not even to be subtracted later: rounding would carry a trace
        of one document into the next.
        """
        return x.cumsum(-2) if self.masks is None else _sum_columns(self.masks.visible, x)

    def cumulate_grad(self, x: Tensor) -> Tensor:
        """The gradient of what was cumulated, from that of its sums."""
        if self.masks is None:
            return x.flip(-2).cumsum(-2).flip(-2)
        return _sum_columns(self.masks.visible.mT, x)

    def enter(self, initial: Tensor | None, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        """``[rows * groups, heads / groups, k, v]`` states before the first chunks.

        ``initial`` ``[h, k, v]`` enters the first row, and only if its document began earlier.
        """
        groups, heads, *state = shape
        entering = like.new_zeros(self.rows, groups, heads, *state)
        if initial is not None and self.continues:
            entering[0] = initial.view(groups, heads, *state)
        return entering.flatten(0, 1)


def _sum_columns(weights: Tensor, x: Tensor) -> Tensor:
    """``weights [n, 1, 1, c, c]`` times each column of ``x [n, x, r, c, 1]``, as one product."""
    columns = x.flatten(1, 2).squeeze(-1).mT
    return (weights[:, 0, 0].to(x.dtype) @ columns).mT.reshape(x.shape)


def _masks(layout: SequenceLayout, chunks: int, size: int) -> ChunkMasks:
    """Masks of one mixed row; padding belongs to the last document, and is neutral."""
    document = layout.document
    padding = document[-1:].expand(chunks * size - len(document))
    document = torch.cat([document, padding]).view(chunks, size)
    first = document[:1, :1] if layout.continues else document[:1, :1] - 1
    before = torch.cat([first, document[:-1, -1:]])
    visible = (document[:, :, None] == document[:, None, :]).float().tril()
    inflow = (document == before).float()[:, :, None]
    outflow = (document == document[:, -1:]).float()[:, :, None]
    carry = (document[:, -1:] == before).float()[:, :, None]
    return ChunkMasks(*(m[:, None, None] for m in (visible, inflow, outflow, carry)))


@dataclass(frozen=True)
class Decays:
    """Factors that the decay puts between the tokens and states of a chunk.

    With ``G`` the inclusive cumulative log decay ``[n, x, r, c, 1]`` of a chunk: ``between``
    ``[n, x, r, c, c]`` is ``e^(G_i - G_j)`` for visible ``i >= j``, ``inflow`` ``e^(G_i)``,
    ``outflow`` ``e^(G_c - G_i)``, ``carry`` ``[n, x, r, 1, 1]`` ``e^(G_c)``. Ratios are always
    exponentials of differences, so nothing overflows.
    """

    between: Tensor
    inflow: Tensor
    outflow: Tensor
    carry: Tensor

    @classmethod
    def of(cls, log_decay: Tensor, grid: ChunkGrid) -> Decays:
        """The factors for log decays ``[n, x, r, c, 1]``."""
        total = grid.cumulate(log_decay)
        between = (total - total.mT).tril_().exp_()
        inflow, outflow = total.exp(), (total[..., -1:, :] - total).exp()
        carry = inflow[..., -1:, :]
        if (m := grid.masks) is None:
            return cls(between.tril_(), inflow, outflow, carry)
        return cls(between * m.visible, inflow * m.inflow, outflow * m.outflow, carry * m.carry)
