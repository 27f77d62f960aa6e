"""Memory of a launch: tensors by address, shared memory of programs, and who touched what.

Every access is checked as a sanitizer on a card would: that it lies inside of a tensor, that it is
aligned, and that no other warp touched the same place without a barrier between.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

SHARED_START = 1024
"""The first byte of shared memory that a program may use on Hopper: the system has those before."""

_SEVERAL_WARPS = 0xFF
_SEVERAL_PROGRAMS = 0x7FFFFFFF
_WORDS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class EmulationError(RuntimeError):
    """What a card would compute wrongly, or not at all."""


class Touches:
    """Who read and wrote each half word since the last barrier, to find races.

    A touch is one int64: program, number of the program's barriers so far, warp. Two touches of a
    place, one of which changes it, race if they come from two programs, or from two warps of a
    program with no barrier between. A store of what is there already changes nothing: Triton lets
    several warps store the same number.
    """

    def __init__(self, size: int, what: str) -> None:
        self.written = np.zeros(-(-size // 2), np.int64)
        self.read = np.zeros(-(-size // 2), np.int64)
        self.what = what

    def reads(self, places: NDArray[np.int64], by: NDArray[np.int64]) -> None:
        """``by [n]`` read the half words ``places [n]``."""
        self._refuse(_race(self.written[places], by), "read", "written", places)
        before = self.read[places]
        self.read[places] = by
        self._several(places, before, by)
        self._several(places, self.read[places], by)

    def writes(self, places: NDArray[np.int64], by: NDArray[np.int64]) -> None:
        """``by [n]`` changed the half words ``places [n]``."""
        self._refuse(_race(self.written[places], by), "written", "written", places)
        self._refuse(_race(self.read[places], by), "written", "read", places)
        self.written[places] = by

    def _several(self, places: Any, before: NDArray[np.int64], by: NDArray[np.int64]) -> None:
        same_program = before >> 32 == by >> 32
        others = (before != 0) & ~same_program
        self.read[places[others]] = _SEVERAL_PROGRAMS << 32
        warps = same_program & (before >> 8 == by >> 8) & (before != by)
        self.read[places[warps]] = by[warps] | _SEVERAL_WARPS

    def _refuse(self, race: NDArray[np.bool_], now: str, before: str, places: Any) -> None:
        if race.any():
            raise EmulationError(
                f"{self.what}: byte {2 * int(places[race][0])} is {now} by one warp and was "
                f"{before} by another, with no barrier between ({int(race.sum())} such half words)"
            )


def _race(before: NDArray[np.int64], by: NDArray[np.int64]) -> NDArray[np.bool_]:
    other_program = before >> 32 != by >> 32
    other_warp = (before >> 8 == by >> 8) & (before != by)
    return (before != 0) & (other_program | other_warp)


class Buffer:
    """Bytes at addresses from ``start`` on."""

    def __init__(self, start: int, data: NDArray[np.uint8], what: str) -> None:
        self.start, self.data, self.what = start, data, what
        self.touches = Touches(len(data), what)
        self.words = {
            size: data[: len(data) // size * size].view(word) for size, word in _WORDS.items()
        }

    def load(self, addresses: NDArray[Any], size: int, count: int, by: Any) -> NDArray[Any]:
        """``[n, count]`` words of ``size`` bytes, read by ``by [n]`` at ``addresses [n]``."""
        places = self._places(addresses, size, count)
        self.touches.reads(*_halves(places, size, by))
        return self.words[size][places]

    def store(self, addresses: NDArray[Any], words: NDArray[Any], by: Any) -> None:
        """Words ``[n, count]``, written by ``by [n]`` to ``addresses [n]``."""
        size = words.dtype.itemsize
        places = self._places(addresses, size, words.shape[1])
        changed = self.words[size][places] != words
        self.words[size][places] = words
        if (self.words[size][places] != words).any():
            raise EmulationError(f"{self.what}: one store writes two values to one place")
        owner = np.broadcast_to(by[:, None], places.shape)[changed]
        self.touches.writes(*_halves(places[changed][:, None], size, owner))

    def _places(self, addresses: NDArray[Any], size: int, count: int) -> NDArray[np.int64]:
        """``[n, count]`` numbers of words."""
        offsets = addresses.astype(np.int64) - self.start
        if len(offsets) and (offsets % (size * count)).any():
            raise EmulationError(f"{self.what}: an address is no multiple of {size * count}")
        if len(offsets) and (offsets.min() < 0 or offsets.max() + size * count > len(self.data)):
            worst = offsets.min() if offsets.min() < 0 else offsets.max()
            raise EmulationError(
                f"{self.what}: byte {worst} is not inside of its {len(self.data)} bytes"
            )
        return offsets[:, None] // size + np.arange(count)


def _halves(places: NDArray[np.int64], size: int, by: Any) -> tuple[Any, Any]:
    """Half words of words ``places [n, count]``, and who touches them (``by [n]``), both flat."""
    if size == 1:
        halves = places[..., None] // 2
    else:
        halves = places[..., None] * (size // 2) + np.arange(size // 2)
    return halves.ravel(), np.repeat(by, halves[0].size if len(halves) else 1)


class GlobalMemory:
    """The tensors of a launch, by their addresses on this host."""

    def __init__(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        buffers: dict[int, Buffer] = {}
        for name, tensor in tensors:
            storage = tensor.untyped_storage()
            if storage.nbytes() and storage.data_ptr() not in buffers:
                data = np.frombuffer(_bytes(storage), np.uint8)
                buffers[storage.data_ptr()] = Buffer(storage.data_ptr(), data, name)
        self.buffers = [buffers[start] for start in sorted(buffers)]
        self.starts = np.array([buffer.start for buffer in self.buffers], np.uint64)

    def load(self, addresses: NDArray[np.uint64], size: int, count: int, by: Any) -> NDArray[Any]:
        """``[n, count]`` words of ``size`` bytes at ``addresses [n]``, read by ``by [n]``."""
        found = np.empty((len(addresses), count), _WORDS[size])
        for buffer, lanes in self._parts(addresses):
            found[lanes] = buffer.load(addresses[lanes], size, count, by[lanes])
        return found

    def store(self, addresses: NDArray[np.uint64], words: NDArray[Any], by: Any) -> None:
        """Words ``[n, count]``, written by ``by [n]`` to ``addresses [n]``."""
        for buffer, lanes in self._parts(addresses):
            buffer.store(addresses[lanes], words[lanes], by[lanes])

    def _parts(self, addresses: NDArray[np.uint64]) -> Iterable[tuple[Buffer, Any]]:
        """Buffers, and which of the ``addresses`` lie behind the start of each."""
        owner = np.searchsorted(self.starts, addresses, side="right") - 1
        for index in np.unique(owner):
            if index < 0:
                raise EmulationError("an address lies before every tensor of the launch")
            yield self.buffers[index], np.flatnonzero(owner == index)


class SharedMemory:
    """``size`` bytes for each of ``programs`` programs, of undefined content (``0xFF``: nan)."""

    def __init__(self, programs: int, size: int) -> None:
        self.size = -(-size // 16) * 16
        data = np.full(programs * self.size, 0xFF, np.uint8)
        self.buffer = Buffer(0, data, "shared memory")

    def load(self, program: Any, addresses: Any, size: int, count: int, by: Any) -> NDArray[Any]:
        """``[n, count]`` words at ``addresses [n]`` of programs ``program [n]``."""
        return self.buffer.load(self._flat(program, addresses, size * count), size, count, by)

    def store(self, program: Any, addresses: Any, words: NDArray[Any], by: Any) -> None:
        """Words ``[n, count]`` to ``addresses [n]`` of programs ``program [n]``."""
        size = words.dtype.itemsize * words.shape[1]
        self.buffer.store(self._flat(program, addresses, size), words, by)

    def peek(self, program: Any, addresses: Any, size: int) -> NDArray[Any]:
        """Words at ``addresses [n, m]`` of programs ``program [n]``, read by no thread."""
        flat = program[:, None] * self.size + addresses - SHARED_START
        return self.buffer.words[size][flat // size]

    def _flat(self, program: Any, addresses: Any, size: int) -> NDArray[np.int64]:
        own = addresses.astype(np.int64) - SHARED_START
        if len(own) and (own.min() < 0 or own.max() + size > self.size):
            raise EmulationError(f"shared memory: byte {own.max()} of {self.size}")
        return program * self.size + own


def _bytes(storage: Any) -> Any:
    """The bytes of a ``storage``, shared with it."""
    return (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())
