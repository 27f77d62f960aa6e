"""Instructions as lines of Python over lanes.

A line may use ``L`` (lanes), ``A`` (accesses to memory), ``T`` (tensor cores), ``B``
(``emulator.bits``) and the banks of registers. It changes only lanes of ``w``: those that are at
this block and whose predicate holds; ``w`` is True where all are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from emulator import arithmetic, movement
from emulator.operands import BANKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.operands import Operands
    from emulator.program import Instruction


Family: TypeAlias = "Callable[[Operands, list[str], tuple[str, ...]], list[str]]"

_ARITHMETIC: dict[str, Family] = {
    **dict.fromkeys(["add", "sub", "min", "max", "neg", "abs"], arithmetic.simple),
    **dict.fromkeys(["and", "or", "xor", "not"], arithmetic.simple),
    **dict.fromkeys(["ex2", "lg2", "rsqrt", "sqrt", "rcp"], arithmetic.function),
    **dict.fromkeys(["shl", "shr"], arithmetic.shift),
    "mul": arithmetic.multiply,
    "mad": arithmetic.multiply_add,
    "fma": arithmetic.fused,
    "div": arithmetic.divide,
    "rem": arithmetic.remainder,
    "bfe": arithmetic.extract,
}
_FORMS: dict[str, Family] = {
    "mov": arithmetic.move,
    "selp": arithmetic.select,
    "setp": arithmetic.compare,
    "cvt": arithmetic.convert,
    "prmt": arithmetic.permute,
    "shfl": arithmetic.shuffle,
    "ld": movement.load,
    "st": movement.store,
    "ldmatrix": movement.load_matrix,
    "stmatrix": movement.store_matrix,
    "cp": movement.copy,
    "bar": movement.barrier,
    "mma": movement.product,
    "wgmma": movement.group_product,
}
"""Instructions whose forms their functions tell apart."""
_FAMILIES = _ARITHMETIC | _FORMS
_NO_EFFECT = frozenset({"createpolicy", "fence", "prefetch"})
"""Caches and the order of memory: there is one copy of each byte, and one order."""
_MODIFIERS = frozenset({"rn", "approx", "full", "ftz", "lo", "hi", "wide", "relu"})
"""Of arithmetic. ``ftz`` is not followed: numbers below 2^-126 stay what they are."""


def lines(to: Operands, instruction: Instruction) -> list[str]:
    """What one instruction does, but for jumps.

    Raises:
        NotImplementedError: an instruction, or one of its forms, is not known here.
    """
    head, *rest = instruction.opcode.split(".")
    if head in _NO_EFFECT:
        return []
    try:
        if head in _ARITHMETIC and set(rest) - _MODIFIERS - BANKS.keys() - arithmetic.NARROW:
            raise ValueError
        found = _FAMILIES[head](to, [head, *rest], instruction.operands)
    except (IndexError, KeyError, ValueError) as error:
        form = f"{instruction.opcode} {', '.join(instruction.operands)}"
        raise NotImplementedError(f"{form} is not emulated") from error
    calls = any(line.startswith(("A.", "T.")) for line in found)
    place = [f"L.where = {instruction.where!r}"] if calls else []
    return [*place, _mask(to, instruction), *found]


def _mask(to: Operands, instruction: Instruction) -> str:
    if instruction.predicate is None:
        return "w = m"
    sign = "~" if instruction.negated else ""
    truth = f"{sign}P[{to.place(instruction.predicate)[1]}]"
    return f"w = {truth} if m is True else m & {truth}"
