"""Loads, stores and copies of lanes (PTX ISA 8.7, sections 9.7.9 and 9.7.14.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from emulator.lanes import InFlight
from emulator.memory import SHARED_START

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emulator.lanes import Lanes
    from emulator.memory import GlobalMemory, SharedMemory


class Accesses:
    """Memory as ``lanes`` see it; ``at`` are addresses ``[lanes]``, ``w`` says which act."""

    shared_start = SHARED_START

    def __init__(
        self, lanes: Lanes, parameters: dict[str, Any], memory: GlobalMemory, shared: SharedMemory
    ) -> None:
        self.lanes, self.parameters, self.memory, self.shared = lanes, parameters, memory, shared
        self.copies = InFlight(lanes.count)

    def parameter(self, at: Any, w: Any) -> NDArray[Any]:
        """Those whose addresses were chosen among."""
        every = np.array(list(self.parameters.values()), np.int64)
        return every[np.where(w, at, 0) // 8]

    def load_global(self, bank: Any, rows: list[int], at: Any, size: int, w: Any) -> None:
        """Words of ``size`` bytes, side by side, into ``rows`` of a bank."""
        lanes = self.lanes.active(w)
        self._sectors("load", at[lanes], size * len(rows), lanes)
        by = self.lanes.by[lanes]
        words = self.memory.load(at[lanes].astype(np.uint64), size, len(rows), by)
        for column, row in enumerate(rows):
            bank[row][lanes] = words[:, column]

    def load_shared(self, bank: Any, rows: list[int], at: Any, size: int, w: Any) -> None:
        """Words of ``size`` bytes, side by side, into ``rows`` of a bank."""
        lanes = self.lanes.active(w)
        self._wavefronts("load", at[lanes], size * len(rows), lanes)
        words = self._shared_words(at, lanes, size, len(rows))
        for column, row in enumerate(rows):
            bank[row][lanes] = words[:, column]

    def store_global(self, at: Any, words: NDArray[Any], w: Any) -> None:
        """Words ``[lanes, n]``."""
        lanes = self.lanes.active(w)
        self._sectors("store", at[lanes], words.dtype.itemsize * words.shape[1], lanes)
        self.memory.store(at[lanes].astype(np.uint64), words[lanes], self.lanes.by[lanes])

    def store_shared(self, at: Any, words: NDArray[Any], w: Any) -> None:
        """Words ``[lanes, n]``."""
        lanes = self.lanes.active(w)
        self._wavefronts("store", at[lanes], words.dtype.itemsize * words.shape[1], lanes)
        self._keep(at, lanes, words[lanes])

    def load_matrix(self, rows: list[int], at: Any, transposed: bool, w: Any) -> None:
        """``ldmatrix``: 8 x 8 half words for each row; lane ``l`` has the address of row ``l``."""
        lanes, addressed = self._matrix_lanes(len(rows), w)
        self._wavefronts("ldmatrix", at[addressed], 16, addressed)
        words = self._shared_words(at, addressed, 2, 8).reshape(-1, len(rows), 8, 8)
        tiles = np.ascontiguousarray(words.swapaxes(2, 3) if transposed else words)
        registers = tiles.view(np.uint32).reshape(-1, len(rows), 32)
        for index, row in enumerate(rows):
            self.lanes.banks["U"][row][lanes] = registers[:, index].ravel()

    def store_matrix(self, rows: list[int], at: Any, transposed: bool, w: Any) -> None:
        """``stmatrix``: the inverse of ``load_matrix``."""
        lanes, addressed = self._matrix_lanes(len(rows), w)
        self._wavefronts("stmatrix", at[addressed], 16, addressed)
        words = [self.lanes.banks["U"][row][lanes].reshape(-1, 32) for row in rows]
        tiles = np.stack(words, 1).view(np.uint16).reshape(-1, len(rows), 8, 8)
        tiles = np.ascontiguousarray(tiles.swapaxes(2, 3) if transposed else tiles)
        self._keep(at, addressed, tiles.reshape(-1, 8))

    def copy(self, to: Any, source: Any, size: int, filled: Any, w: Any) -> None:
        """``cp.async``: ``size`` bytes, zeros where ``filled`` is 0, that arrive when waited for.

        Until then their place holds nan, so that what reads it early, or still reads it, shows.
        """
        lanes = self.lanes.active(w)
        full = (
            np.full(self.lanes.count, size) if filled is None else self.lanes.everywhere(0) + filled
        )
        some = full[lanes] > 0
        if (full[lanes][some] != size).any():
            raise NotImplementedError("cp.async of fewer bytes than it fills")
        words = np.zeros((len(lanes), size // 4), np.uint32)
        read = lanes[some]
        self._sectors("load", source[read], size, read)
        self._wavefronts("copy", to[lanes], size, lanes)
        addresses = source[read].astype(np.uint64)
        words[some] = self.memory.load(addresses, 4, size // 4, self.lanes.by[read])
        self._keep(to, lanes, np.full_like(words, 0xFFFFFFFF))
        self.copies.add(lanes, to[lanes].astype(np.int64), words)

    def wait_for_copies(self, left_over: int, w: Any) -> None:
        """All groups of copies but the last ``left_over`` arrive."""
        for lanes, addresses, words in self.copies.over(left_over, w):
            self.shared.store(self.lanes.program[lanes], addresses, words, self.lanes.by[lanes])

    def _shared_words(self, at: Any, lanes: Any, size: int, count: int) -> NDArray[Any]:
        own = self.lanes.program[lanes], at[lanes]
        return self.shared.load(*own, size, count, self.lanes.by[lanes])

    def _keep(self, at: Any, lanes: NDArray[np.int64], words: NDArray[Any]) -> None:
        own = self.lanes.program[lanes], at[lanes]
        self.shared.store(*own, words, self.lanes.by[lanes])

    def _matrix_lanes(self, matrices: int, w: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All lanes of active warps, and those that give addresses: of 8 rows a matrix."""
        lanes = self.lanes.whole_warps(w)
        return lanes, lanes[lanes % 32 < 8 * matrices]

    def _sectors(self, kind: str, addresses: Any, size: int, lanes: Any) -> None:
        if self.lanes.meter is not None and len(lanes):
            self.lanes.meter.sectors(self.lanes.where, kind, addresses, size, lanes)

    def _wavefronts(self, kind: str, addresses: Any, size: int, lanes: Any) -> None:
        if self.lanes.meter is not None and len(lanes):
            self.lanes.meter.wavefronts(self.lanes.where, kind, addresses, size, lanes)
