"""What launches ask of a multiprocessor: instructions by unit, shared memory, sectors, products."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from emulator.program import Instruction

BANKS = 32
SECTOR = 32
"""Bytes that move at once between caches."""
ROW = 128
"""Bytes that shared memory gives at once."""

_UNITS = (
    (r"mov|ld\.param|createpolicy|bra|ret|fence|wgmma\.fence|cvt\.[us]64", "free"),
    (r"fma|mul\.f32|add\.f32|sub\.f32|neg\.f32", "fp32"),
    (r"ex2|lg2|rsqrt|sqrt|rcp|div", "special"),
    (r"shfl", "shuffle"),
    (r"mma|wgmma\.mma", "tensor"),
    (r"ld|st|cp\.async\.c|ldmatrix|stmatrix", "memory"),
    (r"bar|wgmma|cp", "wait"),
)
UNITS = ("fp32", "integer", "special", "shuffle", "memory", "tensor", "wait")
"""What takes a turn of a scheduler; ``free`` instructions mostly vanish in the assembler."""

Counts = Counter[tuple[str, str]]
"""By line of the source (``dots.py:55 delta_prepare.py:194``) and by what is counted."""


@dataclass
class Meter:
    """What one launch asked for, of all its programs.

    Counted are instructions of warps by unit; ``wavefronts`` (turns of shared memory) and how many
    of them are ``conflicts`` of banks; ``load`` and ``store`` ``sectors`` and the ``bytes`` asked
    for; the multiplications of ``mma`` and ``wgmma``.
    """

    kernel: str
    programs: int
    warps: int
    """Of a program."""
    shared: int
    """Bytes of a program."""
    counts: Counts = field(default_factory=Counter)

    def total(self, what: str) -> int:
        """Over all lines."""
        return sum(count for (_, name), count in self.counts.items() if name == what)

    def instructions(self, census: Counts, warps: int) -> None:
        """``warps`` run a block."""
        for name, count in census.items():
            self.counts[name] += warps * count

    def sectors(self, where: str, kind: str, addresses: Any, size: int, lanes: Any) -> None:
        """``lanes`` ask for ``size`` bytes each."""
        self.counts[where, f"{kind} sectors"] += sectors(addresses, size, lanes // 32)
        self.counts[where, f"{kind} bytes"] += size * len(lanes)

    def wavefronts(self, where: str, kind: str, addresses: Any, size: int, lanes: Any) -> None:
        """``lanes`` ask shared memory for ``size`` bytes each."""
        turns, least = wavefronts(addresses, size, lanes // 32, lanes % 32)
        self.counts[where, "wavefronts"] += turns
        self.counts[where, f"wavefronts {kind}"] += turns
        self.counts[where, "conflicts"] += turns - least

    def product(self, where: str, kind: str, multiplications: int) -> None:
        """``mma`` or ``wgmma``."""
        self.counts[where, kind] += multiplications

    def operands(self, where: str, size: int) -> None:
        """``wgmma`` reads ``size`` bytes of shared memory, without conflicts."""
        self.counts[where, "wavefronts"] += size // ROW
        self.counts[where, "wavefronts wgmma"] += size // ROW


@dataclass
class Profile:
    """Collects what launches ask for: ``with emulated(90, profile=Profile())``."""

    launches: list[Meter] = field(default_factory=list)


def unit(instruction: Instruction) -> str:
    """What executes an instruction: one of ``UNITS``, or ``free``."""
    for pattern, name in _UNITS:
        if re.match(pattern, instruction.opcode):
            return name
    return "integer"


def census(block: Iterable[Instruction]) -> Counts:
    """Instructions of a block by line of the source and unit."""
    return Counter((instruction.where, unit(instruction)) for instruction in block)


def sectors(addresses: NDArray[Any], size: int, warp: NDArray[np.int64]) -> int:
    """Sectors that warps ask for, ``size`` bytes for each lane."""
    first = addresses.astype(np.int64)
    ends = np.concatenate([first // SECTOR, (first + size - 1) // SECTOR])
    return np.unique(np.stack([np.tile(warp, 2), ends]), axis=1).shape[1]


def wavefronts(
    addresses: NDArray[Any], size: int, warp: NDArray[np.int64], lane: NDArray[np.int64]
) -> tuple[int, int]:
    """Turns that shared memory takes, and how many it would take without conflicts.

    A part of a warp that asks for 128 bytes takes as many turns as different words of one bank.
    """
    parts = max(1, size // 4)  # 8 bytes: half a warp at a time, 16: a quarter
    phase = (warp - warp.min()) * 4 + lane // (32 // parts)
    words = addresses.astype(np.int64)[:, None] // 4 + np.arange(parts)
    asked = np.unique(np.stack([np.repeat(phase, parts), words.ravel()]), axis=1)
    banks, turns = np.unique(np.stack([asked[0], asked[1] % BANKS]), axis=1, return_counts=True)
    phases, inverse = np.unique(banks[0], return_inverse=True)
    most = np.zeros(len(phases), np.int64)
    np.maximum.at(most, inverse, turns)
    return int(most.sum()), len(phases)
