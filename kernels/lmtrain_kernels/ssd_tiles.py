"""What the kernels of the scalar-decay recurrence share: tiles, decays, shapes.

Decays are kept as base-2 logarithms, since cards have ``2^x`` and not ``e^x``.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain_kernels.table import ChunkTable

LOG2_E = tl.constexpr(1.4426950408889634)
LEAST_WIDTH, MOST_WIDTH = 16, 256
"""Head sizes that the kernels take; a dot needs 16."""
CHUNKS = (16, 32, 64, 128)
"""Tokens of a chunk that the kernels take."""


class Shapes(NamedTuple):
    """Sizes of one call, checked."""

    tokens: int
    groups: int
    heads: int
    key: int
    value: int

    @classmethod
    def of(cls, key: Tensor, value: Tensor, decay: Tensor, table: ChunkTable) -> Self:
        """Those of ``key [t, g, kd]``, ``value [t, h, vd]``, ``decay [t, h]``.

        Raises:
            ValueError: they do not fit together, or the kernels do not take them.
        """
        (tokens, groups, wide), (heads, narrow) = key.shape, value.shape[1:]
        if value.shape[0] != tokens or decay.shape != (tokens, heads) or heads % groups:
            raise ValueError(
                f"key {tuple(key.shape)}, value {tuple(value.shape)}, decay {tuple(decay.shape)}: "
                "want [t, g, kd], [t, h, vd], [t, h] with h a multiple of g"
            )
        for name, width in (("key", wide), ("value", narrow)):
            if not LEAST_WIDTH <= width <= MOST_WIDTH:
                raise ValueError(
                    f"{name} head size {width}: the kernels take {LEAST_WIDTH} to {MOST_WIDTH}; "
                    "use the torch backend"
                )
        if table.size not in CHUNKS:
            raise ValueError(f"chunks of {table.size} tokens: build the table with one of {CHUNKS}")
        if key.dtype != value.dtype or key.dtype not in (
            torch.float32,
            torch.bfloat16,
            torch.float16,
        ):
            raise ValueError(
                f"key is {key.dtype}, value {value.dtype}: convert both to one of "
                "float32, bfloat16, float16"
            )
        return cls(tokens, groups, heads, wide, narrow)

    def launch_key(self, dtype: torch.dtype) -> dict[str, int]:
        """What rows of ``tuned.json`` may ask for: padded head sizes, and bits of an input."""
        return {
            "key": power_of_two(self.key),
            "value": power_of_two(self.value),
            "bits": 8 * dtype.itemsize,
        }


def power_of_two(width: int) -> int:
    """The least power of two that is not below ``width``."""
    return 1 << (width - 1).bit_length()


@triton.jit
def nearest(rows, left):
    """``rows``, those past ``left`` moved to the last of them.

    Offsets made of these are no affine function of a loop's counter, and neither is the least of
    the counter and a bound it never reaches. LLVM would give each vector of an affine tile an
    address of its own to count up, and a walk has no registers for forty of them.
    """
    return tl.maximum(tl.minimum(rows, left - 1), 0)


@triton.jit
def load_rows(pointer, offsets, rows, columns, left, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """``pointer[offsets]`` for the first ``left`` rows and ``WIDTH`` columns, zero elsewhere."""
    mask = (rows < left)[:, None]
    if WIDTH % PADDED != 0:
        mask = mask & (columns < WIDTH)[None, :]
    return tl.load(pointer + offsets, mask=mask, other=0.0)


@triton.jit
def store_rows(pointer, offsets, rows, columns, left, x, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """The first ``left`` rows and ``WIDTH`` columns of ``x`` into ``pointer[offsets]``."""
    mask = (rows < left)[:, None]
    if WIDTH % PADDED != 0:
        mask = mask & (columns < WIDTH)[None, :]
    tl.store(pointer + offsets, x.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def state_mask(
    k, v, KEY: tl.constexpr, VALUE: tl.constexpr, PADDED_KEY: tl.constexpr, BLOCK: tl.constexpr
):
    """``[k, v]``: which entries of a tile lie in a state."""
    mask = (k >= 0)[:, None] & (v >= 0)[None, :]
    if KEY % PADDED_KEY != 0:
        mask = mask & (k < KEY)[:, None]
    if VALUE % BLOCK != 0:
        mask = mask & (v < VALUE)[None, :]
    return mask


@triton.jit
def cumulate(decay, rows, left, HEADS: tl.constexpr):
    """``(total [c], whole)``: inclusive sums of a chunk's log decays in base 2, and the last.

    Rows past ``left`` decay nothing.
    """
    g = tl.load(decay + rows * HEADS, mask=rows < left, other=0.0).to(tl.float32) * LOG2_E
    total = tl.cumsum(g, 0)
    whole = tl.sum(tl.where(rows == left - 1, total, 0.0))
    return total, whole
