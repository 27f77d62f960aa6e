"""Randomness without state: numbers and permutations that are functions of a key.

Only integer arithmetic decides, so every machine and every version of numpy agrees.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDS = 6


class Permutation:
    """A random permutation of ``0 .. size - 1`` with random access and no table.

    A Feistel network permutes the numbers below the next power of two; what falls outside walks on
    along its cycle until it is inside.
    """

    def __init__(self, size: int, *key: int | str) -> None:
        self.size = size
        bits = (size - 1).bit_length()
        self._shift = np.uint64(bits - bits // 2)
        self._left = np.uint64((1 << bits // 2) - 1)
        self._right = np.uint64((1 << (bits - bits // 2)) - 1)
        self._keys = key_words(*key, count=ROUNDS)

    def __call__(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each index goes: int64, any shape; indices are below ``size``."""
        value = self._network(index.astype(np.uint64))
        while (outside := value >= self.size).any():
            value[outside] = self._network(value[outside])
        return value.astype(np.int64)

    def _network(self, value: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = value >> self._shift, value & self._right
        for key in self._keys.reshape(-1, 2):
            left = left ^ (mix(right + key[0]) & self._left)
            right = right ^ (mix(left + key[1]) & self._right)
        return (left << self._shift) | right


def uniform(count: int, *key: int | str) -> NDArray[np.float64]:
    """``[count]`` numbers in (0, 1)."""
    words = mix(np.arange(count, dtype=np.uint64) + key_words(*key, count=1))
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def key_words(*key: int | str, count: int) -> NDArray[np.uint64]:
    """``[count]`` 64-bit words, at most eight, from the parts of a key."""
    digest = blake2b(repr(key).encode(), digest_size=8 * count).digest()
    return np.frombuffer(digest, "<u8").astype(np.uint64)


def mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over the word (the finaliser of splitmix64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
