"""Numbers in registers: formats of 16 bits and tf32, bytes, exchanges between lanes of a warp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def widen(halves: NDArray[np.uint16], dtype: str) -> NDArray[np.float32]:
    """fp32 of ``bf16`` or ``f16``."""
    if dtype == "bf16":
        return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return halves.view(np.float16).astype(np.float32)


def decode(words: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Numbers in 32-bit ``words [..., n]``: ``[..., n, 2]`` of 16 bits, ``[..., n, 1]`` of tf32."""
    words = np.ascontiguousarray(words)
    if dtype == "tf32":
        return (words & np.uint32(0xFFFFE000)).view(np.float32)[..., None]
    return widen(words.view(np.uint16).reshape(*words.shape, 2), dtype)


def to_bf16(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    """bf16 of fp32 ``numbers``, rounded to nearest, ties to even."""
    bits = numbers.view(np.uint32)
    half = np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    rounded = bits + half >> np.uint32(16)
    return np.where(np.isnan(numbers), np.uint32(0x7FFF), rounded).astype(np.uint16)


def to_f16(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    """f16 of fp32 ``numbers``, rounded to nearest, ties to even."""
    return numbers.astype(np.float16).view(np.uint16)


def to_tf32(numbers: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Rounded to tf32, ties away from zero."""
    return numbers.view(np.uint32) + np.uint32(0x1000) & np.uint32(0xFFFFE000)


def two_bf16(high: NDArray[np.float32], low: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Two rounded numbers in one register."""
    return pack(to_bf16(low), to_bf16(high))


def two_f16(high: NDArray[np.float32], low: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Two rounded numbers in one register."""
    return pack(to_f16(low), to_f16(high))


def widened(register: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """fp32 of one number of 16 bits, or ``[lanes, 2]`` of two."""
    return decode(register, dtype) if register.dtype == np.uint32 else widen(register, dtype)


def narrowed(numbers: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """The inverse of ``widened``, rounded."""
    if numbers.ndim == 2:
        return {"bf16": two_bf16, "f16": two_f16}[dtype](numbers[:, 1], numbers[:, 0])
    return {"bf16": to_bf16, "f16": to_f16}[dtype](numbers)


def pack(low: NDArray[np.uint16], high: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """Two registers of 16 bits as one of 32."""
    return low.astype(np.uint32) | high.astype(np.uint32) << np.uint32(16)


def quotient(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Integers divided towards zero."""
    whole = np.abs(a.astype(np.int64)) // np.maximum(np.abs(np.int64(1) * b), 1)
    return np.where((a < 0) != (b < 0), -whole, whole)


def permute(a: Any, b: Any, control: Any) -> NDArray[np.uint32]:
    """Four of the eight bytes of ``a`` and ``b``, a digit of ``control`` each (``prmt``).

    The three low bits of a digit name a byte; the fourth asks for its sign in all bits instead.
    """
    eight = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    found = np.zeros(eight.shape, np.uint64)
    for place in range(4):
        digit = (control >> np.uint32(4 * place)).astype(np.uint64)
        byte = eight >> np.uint64(8) * (digit & np.uint64(7)) & np.uint64(0xFF)
        signs = np.where(byte > 127, np.uint64(0xFF), np.uint64(0))
        found |= np.where(digit & np.uint64(8), signs, byte) << np.uint64(8 * place)
    return found.astype(np.uint32)


def shuffle(mode: str, value: NDArray[Any], by: Any) -> NDArray[Any]:
    """Each lane's ``value`` from another lane of its warp (``shfl``)."""
    lane, warp = np.arange(len(value)) % 32, np.arange(len(value)) // 32 * 32
    by = np.int64(1) * by
    source = {"bfly": lane ^ by, "idx": by & 31, "up": lane - by, "down": lane + by}[mode]
    return value[warp + np.where((source < 0) | (source > 31), lane, source)]
