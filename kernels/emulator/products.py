"""Products of warps and warp groups (PTX ISA 8.7, sections 9.7.14 and 9.7.15)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from emulator.bits import decode, widen
from emulator.lanes import InFlight
from emulator.memory import EmulationError
from emulator.tensor_cores import gather, left, matrix_addresses, right, spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emulator.lanes import Lanes
    from emulator.memory import SharedMemory


class Form(NamedTuple):
    """A ``wgmma`` of 64 x ``columns``, summed over ``depth``."""

    columns: int
    depth: int
    dtype: str
    turned_a: bool
    """A lies transposed in shared memory."""
    turned_b: bool

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return 4 if self.dtype == "tf32" else 2


class Products:
    """Tensor cores, as ``lanes`` use them; ``w`` says which lanes take part."""

    def __init__(self, lanes: Lanes, shared: SharedMemory) -> None:
        self.lanes, self.shared = lanes, shared
        self.reads = InFlight(lanes.count)

    def mma(
        self, d: list[int], a: list[int], b: list[int], c: list[int], dtype: str, w: Any
    ) -> None:
        """``D = A B + C`` of 16 x 8 a warp."""
        lanes = self.lanes.whole_warps(w)
        rows, columns = (self._registers(lanes, x) for x in (a, b))
        product = left(rows, dtype) @ right(columns, dtype)
        if self.lanes.meter is not None:
            depth = 4 * len(a) if dtype != "tf32" else 2 * len(a)
            self.lanes.meter.product(self.lanes.where, "mma", product.size * depth)
        self._keep(d, gather(self._registers(lanes, c).view(np.float32)) + product, lanes)

    def wgmma(self, d: list[int], a: Any, b: Any, keep: Any, form: Form, w: Any) -> None:
        """``D = A B + D`` a warp group; A in registers (a list) or, like B, in shared memory."""
        lanes = self.lanes.whole_warps(w)
        if isinstance(a, list):
            rows = left(self._registers(lanes, a), form.dtype).reshape(-1, 64, form.depth)
        else:
            rows = self._operand(a, 64, form, form.turned_a, lanes)
        columns = self._operand(b, form.columns, form, form.turned_b, lanes)
        sums = gather(self._registers(lanes, d).view(np.float32))
        product = (rows @ columns.swapaxes(1, 2)).reshape(sums.shape)
        if self.lanes.meter is not None:
            read = columns.size if isinstance(a, list) else columns.size + rows.size
            self.lanes.meter.product(self.lanes.where, "wgmma", sums.size * form.depth)
            self.lanes.meter.operands(self.lanes.where, read * form.size)
        kept = keep[lanes[::32]][:, None, None] if isinstance(keep, np.ndarray) else keep
        self._keep(d, np.where(kept, sums, np.float32(0)) + product, lanes)

    def wait(self, left_over: int, w: Any) -> None:
        """All groups of ``wgmma`` but the last ``left_over`` are over.

        Raises:
            EmulationError: what one of them read from shared memory is no longer there.
        """
        for lanes, addresses, words in self.reads.over(left_over, w):
            found = self.shared.peek(self.lanes.program[lanes], addresses, words.dtype.itemsize)
            if (found != words).any():
                raise EmulationError("shared memory changed before a wgmma that reads it was over")

    def _operand(
        self, descriptor: Any, outer: int, form: Form, turned: bool, lanes: Any
    ) -> NDArray[np.float32]:
        """``[groups, outer, depth]`` from shared memory."""
        firsts = lanes[::128]
        shape = len(firsts), outer, form.depth
        addresses = matrix_addresses(
            descriptor[firsts], outer, form.depth, form.size, transposed=turned
        ).reshape(len(firsts), -1)
        program, by = (
            np.repeat(x[firsts], addresses.shape[1]) for x in (self.lanes.program, self.lanes.by)
        )
        words = self.shared.load(program, addresses.ravel(), form.size, 1, by)
        self.reads.add(firsts, addresses, words.reshape(addresses.shape))
        numbers = widen(words, form.dtype) if form.size == 2 else decode(words, form.dtype)
        return numbers.reshape(shape)

    def _registers(self, lanes: NDArray[np.int64], rows: list[int]) -> NDArray[np.uint32]:
        """``[warps, 32, n]``."""
        words = np.stack([self.lanes.banks["U"][row][lanes] for row in rows], 1)
        return words.reshape(-1, 32, len(rows))

    def _keep(self, rows: list[int], sums: NDArray[Any], lanes: NDArray[np.int64]) -> None:
        registers = spread(sums.astype(np.float32)).reshape(-1, len(rows))
        for index, row in enumerate(rows):
            self.lanes.banks["F"][row][lanes] = registers[:, index]
