"""Operands of instructions as expressions of Python.

Each register is a row of numbers, one for each lane. The banks ``U I F`` (32 bits), ``Q J D`` (64),
``H G E`` (16) and ``P`` (predicates) are lists of such rows: views of the same bits by type.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from emulator.program import Program

BANKS = {
    **{"b32": "U", "u32": "U", "s32": "I", "f32": "F"},
    **{"b64": "Q", "u64": "Q", "s64": "J", "f64": "D"},
    **{"b16": "H", "u16": "H", "s16": "G", "f16": "E", "pred": "P"},
}
"""By type of a number."""
NUMPY = {
    **{"U": "uint32", "I": "int32", "F": "float32", "Q": "uint64", "J": "int64", "D": "float64"},
    **{"H": "uint16", "G": "int16", "E": "float16", "P": "bool_"},
}
_STORAGE = {"pred": "P", "b16": "H", "b32": "U", "f32": "U", "b64": "Q", "f64": "Q"}
"""Banks of unsigned numbers, which the others are views of."""
_SPECIAL = {
    **{"%tid.x": "L.thread", "%laneid": "L.thread % np.uint32(32)"},
    **{f"%ctaid.{axis}": f"L.program_id[{i}]" for i, axis in enumerate("xyz")},
    **{f"%nctaid.{axis}": f"np.uint32(L.grid[{i}])" for i, axis in enumerate("xyz")},
}
_ADDRESS = re.compile(r"\[(%\w+|global_smem)(?:\+(-?\w+))?\]")
_PARAMETER = re.compile(r"\w+_param_(\d+)")
_WIDTH = {bank: np.dtype(getattr(np, name)).itemsize for bank, name in NUMPY.items()}
"""Bytes of a number."""


class Operands:
    """Where the registers of a ``program`` are, and how they are written and read."""

    def __init__(self, program: Program) -> None:
        self._first: dict[str, tuple[str, int]] = {}
        self.counts = {"U": 0, "Q": 0, "H": 0, "P": 0}
        """Rows by bank; the last one takes what a list of registers leaves out (``_``)."""
        for prefix, (kind, count) in program.registers.items():
            bank = _STORAGE[kind]
            self._first[prefix] = bank, self.counts[bank]
            self.counts[bank] += count
        self.counts = {bank: count + 1 for bank, count in self.counts.items()}

    def place(self, register: str) -> tuple[str, int]:
        """The bank (by width) and the row of a ``register``.

        Raises:
            NotImplementedError: the program does not declare it.
        """
        if register == "_":
            return "U", -1
        match = re.fullmatch(r"(%[a-z]+)(\d+)", register)
        if match is None or match[1] not in self._first:
            raise NotImplementedError(f"register {register}")
        bank, first = self._first[match[1]]
        return bank, first + int(match[2])

    def value(self, operand: str, kind: str) -> str:
        """An ``operand`` read as ``kind``."""
        bank = BANKS[kind]
        if operand in _SPECIAL:
            return _SPECIAL[operand]
        if operand.startswith("%"):
            own, row = self.place(operand)
            if _WIDTH[bank] < _WIDTH[own]:  # the low bits of a wider register
                return f"{own}[{row}].astype(np.{NUMPY[bank]})"
            return f"{bank}[{row}]"
        if operand == "global_smem":
            return f"np.{NUMPY[bank]}(A.shared_start)"
        if parameter := _PARAMETER.fullmatch(operand):  # its address, eight bytes each
            return constant(str(8 * int(parameter[1])), bank)
        return constant(operand, bank)

    def rows(self, operand: str) -> str:
        """Rows of registers ``{%r1,%r2}`` or ``%r1``."""
        return f"[{', '.join(str(self.place(name)[1]) for name in names(operand))}]"

    def address(self, operand: str) -> str:
        """``[%rd4+16]``.

        Raises:
            NotImplementedError: an address of another form.
        """
        match = _ADDRESS.fullmatch(operand)
        if match is None:
            raise NotImplementedError(f"address {operand}")
        base, offset = match[1], int(match[2] or "0", 0)
        if base == "global_smem":
            return f"L.everywhere(A.shared_start + {offset})"
        start = self.value(base, "s64" if self.place(base)[0] == "Q" else "s32")
        return f"{start} + {offset}" if offset else start

    def put(self, target: str, kind: str, expression: str) -> list[str]:
        """A line that writes ``target``, of the width of ``kind``, in active lanes.

        Raises:
            NotImplementedError: the register is wider.
        """
        if _WIDTH[BANKS[kind]] < _WIDTH[self.place(target)[0]]:
            raise NotImplementedError(f"{kind} into {target}")
        out = self.value(target, kind)
        return [f"np.copyto({out}, {expression}, where=w, casting='unsafe')"]


def names(operand: str) -> list[str]:
    """Registers of ``{%r1,%r2}`` or ``%r1``."""
    return operand.strip("{}").split(",")


def constant(text: str, bank: str) -> str:
    """A literal of PTX as a number of a bank's type."""
    if text.startswith("0f"):
        bits = f"np.uint32(0x{text[2:]})"
        return f"{bits}.view(np.float32)" if bank == "F" else bits
    if bank == "P":
        return str(bool(int(text, 0)))
    value = int(text.rstrip("U"), 0)
    bits = {"U": 32, "Q": 64, "H": 16}.get(bank)
    return f"np.{NUMPY[bank]}({value & (1 << bits) - 1 if bits else value})"
