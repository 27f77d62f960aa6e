"""Tensor cores: how matrices lie over the registers of a warp and in shared memory.

PTX ISA 8.7, sections 9.7.14 (``mma``) and 9.7.15 (``wgmma``). Products are of exact operands,
summed in fp32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from emulator.bits import decode

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LANE = np.arange(32)
_ROW, _COLUMN = _LANE // 4, _LANE % 4


def left(registers: NDArray[np.uint32], dtype: str) -> NDArray[np.float32]:
    """``A [w, 16, k]`` of four registers ``[w, 32, 4]`` of warps."""
    parts = decode(registers, dtype)
    pack = parts.shape[-1]
    a = np.empty((len(parts), 16, 8 * pack), np.float32)
    for index in range(4):
        rows = _ROW + 8 * (index % 2)
        for part in range(pack):
            a[:, rows, pack * _COLUMN + part + 4 * pack * (index // 2)] = parts[:, :, index, part]
    return a


def right(registers: NDArray[np.uint32], dtype: str) -> NDArray[np.float32]:
    """``B [w, k, 8]`` of two registers ``[w, 32, 2]`` of warps."""
    parts = decode(registers, dtype)
    pack = parts.shape[-1]
    b = np.empty((len(parts), 8 * pack, 8), np.float32)
    for index in range(2):
        for part in range(pack):
            b[:, pack * _COLUMN + part + 4 * pack * index, _ROW] = parts[:, :, index, part]
    return b


def spread(c: NDArray[np.float32]) -> NDArray[np.float32]:
    """Registers ``[w, 32, n / 2]`` of sums ``C [w, 16, n]``."""
    tiles = c.reshape(len(c), 2, 8, -1, 4, 2)  # half of rows, row, block of columns, lane, pair
    return tiles.transpose(0, 2, 4, 3, 1, 5).reshape(len(c), 32, -1)


def gather(registers: NDArray[np.float32]) -> NDArray[np.float32]:
    """``C [w, 16, n]`` of registers ``[w, 32, n / 2]``."""
    tiles = registers.reshape(len(registers), 8, 4, -1, 2, 2)
    return tiles.transpose(0, 4, 1, 3, 2, 5).reshape(len(registers), 16, -1)


def matrix_addresses(
    descriptors: NDArray[np.uint64], outer: int, inner: int, size: int, *, transposed: bool
) -> NDArray[np.int64]:
    """Where the numbers of an operand of ``wgmma`` lie: bytes ``[g, outer, inner]``.

    ``outer`` runs over rows of A or columns of B, ``inner`` over what is summed; words have
    ``size`` bytes. Layouts are the canonical ones: cores of 8 rows of 16 bytes, side by side
    in rows of 32, 64 or 128 bytes whose 16-byte units are swizzled, or none (9.7.15.5.1).
    """
    fields = (descriptors >> np.uint64(shift) & np.uint64(0x3FFF) for shift in (0, 16, 32))
    start, leading, stride = (16 * x.astype(np.int64)[:, None, None] for x in fields)
    mode = int(descriptors[0] >> np.uint64(62))
    row = {0: 16, 1: 128, 2: 64, 3: 32}[mode]
    i, k = np.arange(outer)[:, None], np.arange(inner)[None, :]
    if transposed:
        width = row // size  # numbers of the outer dimension that lie side by side
        if mode == 0:
            offset = i % width * size + i // width * stride + k % 8 * row + k // 8 * leading
        else:
            offset = i % width * size + i // width * leading + k % 8 * row + k // 8 * stride
    else:
        byte = k * size
        if mode == 0:
            offset = byte % 16 + byte // 16 * leading + i % 8 * 16 + i // 8 * stride
        else:
            offset = byte + i % 8 * row + i // 8 * stride
    address = start + offset
    units = row // 16 - 1  # swizzled bits
    return address ^ ((address >> 7 & units) << 4)
