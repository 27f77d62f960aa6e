"""The threads of some programs side by side: who they are, and their registers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from emulator.memory import EmulationError
from emulator.operands import BANKS, NUMPY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emulator.counters import Meter


class Lanes:
    """Lane ``i`` is thread ``i % threads`` of one of the programs ``numbers`` of a ``grid``."""

    def __init__(
        self,
        threads: int,
        numbers: NDArray[np.int64],
        grid: tuple[int, int, int],
        registers: dict[str, int],
        meter: Meter | None,
    ) -> None:
        self.threads, self.count = threads, threads * len(numbers)
        self.grid, self.meter = grid, meter
        self.thread = np.tile(np.arange(threads, dtype=np.uint32), len(numbers))
        self.program = np.repeat(np.arange(len(numbers)), threads)
        """Which of those side by side."""
        number = np.repeat(numbers, threads)
        axes = number % grid[0], number // grid[0] % grid[1], number // (grid[0] * grid[1])
        self.program_id = [axis.astype(np.uint32) for axis in axes]
        self._warp = (number + 1 << 32) + self.thread // 32
        self._barriers = np.zeros(len(numbers), np.int64)
        self.by = self._warp
        """Who touches memory, as ``Touches`` wants it."""
        self.where = ""
        """The line of the source that runs."""
        self.banks = self._banks(registers)

    def _banks(self, registers: dict[str, int]) -> dict[str, list[NDArray[Any]]]:
        """Rows by bank, of undefined content (all bits set: nan); predicates are false."""
        found: dict[str, list[NDArray[Any]]] = {}
        for bank, count in registers.items():
            rows = np.zeros((count, self.count), NUMPY[bank])
            rows.view(np.uint8).fill(0 if bank == "P" else 0xFF)
            for other in set(BANKS.values()):
                kind = np.dtype(NUMPY[other])
                if (other == "P") == (bank == "P") and kind.itemsize == rows.dtype.itemsize:
                    found[other] = list(rows.view(kind))
        return found

    def pass_barrier(self, w: Any) -> None:
        """All threads of a program have waited for each other.

        Raises:
            EmulationError: some of them are elsewhere.
        """
        arrived = np.ones(1, bool) if w is True else w.reshape(-1, self.threads).any(1)
        if w is not True and not w.reshape(-1, self.threads)[arrived].all():
            raise EmulationError("a barrier that not all threads of a program reach")
        self._barriers += arrived
        self.by = self._warp + (self._barriers << 8)[self.program]

    def active(self, w: Any) -> NDArray[np.int64]:
        """Numbers of lanes."""
        return np.arange(self.count) if w is True else np.flatnonzero(w)

    def whole_warps(self, w: Any) -> NDArray[np.int64]:
        """Numbers of lanes of an instruction that a warp executes as one.

        Raises:
            EmulationError: some lanes of a warp skip it.
        """
        if w is not True and (w.reshape(-1, 32).any(1) != w.reshape(-1, 32).all(1)).any():
            raise EmulationError("an instruction of a whole warp that some of its lanes skip")
        return self.active(w)

    def everywhere(self, number: int) -> NDArray[np.int64]:
        """The same in each lane."""
        return np.full(self.count, number, np.int64)

    def constants(self, numbers: list[int], dtype: Any) -> NDArray[Any]:
        """``[lanes, n]``: the same ``numbers`` in each lane."""
        return np.tile(np.array(numbers, dtype), (self.count, 1))

    def columns(self, bank: list[NDArray[Any]], rows: list[int], size: int) -> NDArray[Any]:
        """``[lanes, n]`` of registers, cut to ``size`` bytes."""
        words = np.stack([bank[row] for row in rows], 1)
        return words if words.dtype.itemsize == size else words.astype(f"u{size}")


class InFlight:
    """What lanes have begun and not waited for: arrays by lane, in groups that they commit."""

    def __init__(self, lanes: int) -> None:
        self._group = np.zeros(lanes, np.int64)
        self._waiting: list[tuple[NDArray[Any], ...]] = []

    def add(self, lanes: NDArray[np.int64], *arrays: NDArray[Any]) -> None:
        """Row ``i`` of each array belongs to lane ``lanes[i]``."""
        self._waiting.append((lanes, self._group[lanes], *arrays))

    def commit(self, w: Any) -> None:
        """What was begun so far is a group."""
        self._group += 1 if w is True else w

    def over(self, left_over: int, w: Any) -> list[tuple[NDArray[Any], ...]]:
        """Take out what lanes of ``w`` wait for: all of their groups but the last ``left_over``."""
        active = np.broadcast_to(w, self._group.shape)
        found, waiting = [], []
        for lanes, group, *arrays in self._waiting:
            done = active[lanes] & (group < self._group[lanes] - left_over)
            found.append((lanes[done], *(x[done] for x in arrays)))
            if not done.all():
                waiting.append((lanes[~done], group[~done], *(x[~done] for x in arrays)))
        self._waiting = waiting
        return found
