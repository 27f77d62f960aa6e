"""What kernels over chunks share: tiles of tokens, products and decays in the right precision."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

INTERPRETED = tl.constexpr(knobs.runtime.interpret)


def parts(number: int, size: int) -> int:
    """How many parts of ``size`` hold ``number``, on the host; ``triton.cdiv`` takes 2 us there."""
    return -(-number // size)


def padded(width: int) -> int:
    """What a width of keys or values fills in registers: a product of tiles needs 16."""
    return max(16, 1 << (width - 1).bit_length())


@triton.jit
def dot(a, b):
    """``a @ b`` in fp32: exact products of fp32 operands, tensor cores for 16-bit ones."""
    if INTERPRETED:  # it multiplies the bits of bf16 as integers
        return tl.dot(a.to(tl.float32), b.to(tl.float32))
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def add_dot(total, a, b):
    """``total + a @ b``, as ``dot``."""
    if INTERPRETED:
        return total + tl.dot(a.to(tl.float32), b.to(tl.float32))
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def piece(x, index: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows ``[index ROWS, (index + 1) ROWS)`` of ``x [PARTS ROWS, COLUMNS]`` in registers."""
    if PARTS == 1:
        return x
    part = tl.arange(0, PARTS)[:, None, None]
    return tl.sum(tl.where(part == index, tl.reshape(x, (PARTS, ROWS, COLUMNS)), 0.0), axis=0)


@triton.jit
def load_tile(
    pointer,
    count,
    column,
    STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``[ROWS, COLUMNS]`` from ``column`` on; zero beyond ``count`` rows and ``WIDTH`` columns."""
    row = tl.arange(0, ROWS)[:, None]
    column += tl.arange(0, COLUMNS)[None, :]
    inside = row < count
    if WIDTH % COLUMNS:
        inside = inside & (column < WIDTH)
    return tl.load(pointer + row * STRIDE + column, mask=inside, other=0.0)


@triton.jit
def store_tile(
    pointer,
    tile,
    count,
    column,
    STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Where ``load_tile`` reads, in the dtype that is there."""
    row = tl.arange(0, ROWS)[:, None]
    column += tl.arange(0, COLUMNS)[None, :]
    inside = row < count
    if WIDTH % COLUMNS:
        inside = inside & (column < WIDTH)
    tl.store(pointer + row * STRIDE + column, tile.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def load_numbers(pointer, count, STRIDE: tl.constexpr, ROWS: tl.constexpr):
    """``[ROWS]`` in fp32, one of each token; zero beyond ``count``."""
    row = tl.arange(0, ROWS)
    return tl.load(pointer + row * STRIDE, mask=row < count, other=0.0).to(tl.float32)


@triton.jit
def store_numbers(pointer, numbers, count, STRIDE: tl.constexpr, ROWS: tl.constexpr):
    """Where ``load_numbers`` reads."""
    row = tl.arange(0, ROWS)
    tl.store(pointer + row * STRIDE, numbers, mask=row < count)


@triton.jit
def between(total, ROWS: tl.constexpr):
    """``e^(G_i - G_j)`` for ``i >= j``, else 0, of cumulative log decays ``total [ROWS]``.

    Never more than 1, even where rows beyond a short chunk hold zeros.
    """
    row = tl.arange(0, ROWS)
    past = row[:, None] >= row[None, :]
    passed = tl.minimum(total[:, None] - total[None, :], 0.0)
    return tl.exp(tl.where(past, passed, float("-inf")))
