"""A kernel on this host: its blocks as functions of Python, its programs in lockstep.

Lanes that are at the earliest block run it, the others wait: so lanes that part at a jump meet
again where their ways do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from emulator import bits
from emulator.accesses import Accesses
from emulator.counters import census
from emulator.lanes import Lanes
from emulator.memory import SharedMemory
from emulator.operands import Operands
from emulator.products import Form, Products
from emulator.translate import lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from emulator.counters import Meter
    from emulator.memory import GlobalMemory
    from emulator.program import Instruction, Program

AT_ONCE = 16
"""Programs that run side by side: more of them make Python's share of an instruction smaller."""


class Emulator:
    """``Emulator(program)(grid, parameters, memory, shared)`` runs a kernel.

    Raises:
        NotImplementedError: an instruction is not known here.
    """

    def __init__(self, program: Program) -> None:
        self.program, self.operands = program, Operands(program)
        self.census = [census(block) for block in program.blocks]
        source = "\n\n".join(self._block(i, block) for i, block in enumerate(program.blocks))
        self.code = compile(source, program.name, "exec")

    def __call__(
        self,
        grid: Sequence[int],
        parameters: dict[str, Any],
        memory: GlobalMemory,
        shared: int,
        meter: Meter | None = None,
    ) -> None:
        """All programs of ``grid``; numbers by parameter; bytes of shared memory of a program."""
        x, y, z = (*grid, 1, 1)[:3]
        for start in range(0, x * y * z, AT_ONCE):
            numbers = np.arange(start, min(start + AT_ONCE, x * y * z))
            own = SharedMemory(len(numbers), shared)
            lanes = Lanes(self.program.threads, numbers, (x, y, z), self.operands.counts, meter)
            with np.errstate(all="ignore"):
                Machine(self, lanes, Accesses(lanes, parameters, memory, own), own).run()

    def _block(self, index: int, block: tuple[Instruction, ...]) -> str:
        """The source of ``block_7(m)``, which returns the next block, or that of each lane."""
        body, after = [f"def block_{index}(m):"], str(index + 1)
        for instruction in block:
            if instruction.opcode in {"bra", "bra.uni"}:
                to = str(self.program.labels[instruction.operands[0]])
                after = self._jump(instruction, to, after)
            elif instruction.opcode == "ret":
                after = self._jump(instruction, str(len(self.program.blocks)), after)
            else:
                body += lines(self.operands, instruction)
        return "\n    ".join([*body, f"return {after}"])

    def _jump(self, instruction: Instruction, to: str, after: str) -> str:
        if instruction.predicate is None:
            return to
        sign = "~" if instruction.negated else ""
        row = self.operands.place(instruction.predicate)[1]
        return f"M.branch(m, {sign}P[{row}], {to}, {after})"


class Machine:
    """Some programs of a launch."""

    def __init__(
        self, emulator: Emulator, lanes: Lanes, accesses: Accesses, shared: SharedMemory
    ) -> None:
        self.lanes, self.census = lanes, emulator.census
        parts = {"L": lanes, "A": accesses, "T": Products(lanes, shared), "M": self, "B": bits}
        names: dict[str, Any] = {"np": np, "Form": Form, **parts, **lanes.banks}
        exec(emulator.code, names)  # noqa: S102, RUF100 - our own translation
        self.blocks = [names[f"block_{i}"] for i in range(len(emulator.program.blocks))]

    def run(self) -> None:
        """From the first block until every lane has returned."""
        end = len(self.blocks)
        block = 0
        while block < end:  # all lanes are at the same block
            after = self._step(block, True)
            block = after if isinstance(after, int) else self._apart(after)

    def _apart(self, at: NDArray[np.int64]) -> int:
        """Go on from blocks ``at [lanes]`` until all lanes are at one block: which."""
        at = at.copy()
        while (at != at[0]).any():
            first = int(at.min())
            here = at == first
            after = self._step(first, here)
            at[here] = after if isinstance(after, int) else after[here]
        return int(at[0])

    def _step(self, block: int, here: Any) -> Any:
        if self.lanes.meter is not None:
            warps = self.lanes.count // 32 if here is True else here.reshape(-1, 32).any(1).sum()
            self.lanes.meter.instructions(self.census[block], int(warps))
        return self.blocks[block](here)

    def branch(self, m: Any, truth: NDArray[np.bool_], to: int, after: int) -> Any:
        """The next block: a number if all lanes of ``m`` agree, else one for each lane."""
        chosen = truth if m is True else truth[m]
        if chosen.all():
            return to
        return np.where(truth, to, after) if chosen.any() else after
