"""Memory, barriers and tensor cores as lines of Python: calls of ``Accesses`` and ``Products``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from emulator.operands import BANKS, NUMPY, names

if TYPE_CHECKING:
    from emulator.arithmetic import Parts, Texts
    from emulator.operands import Operands

_WORDS = {1: "H", 2: "H", 4: "U", 8: "Q"}
"""Banks of constants, by size in bytes."""


def load(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``ld.global``, ``ld.shared`` and ``ld.param``."""
    target, address = operands[:2]
    if parts[1] == "param":
        return _parameter(to, target, parts[-1], address)
    bank = to.place(next(x for x in names(target) if x != "_"))[0]
    space, size = _space(parts), int(parts[-1][1:]) // 8
    arguments = f"{bank}, {to.rows(target)}, {to.address(address)}, {size}, w"
    return [f"A.load_{space}({arguments})"]


def _parameter(to: Operands, target: str, kind: str, address: str) -> list[str]:
    width = {"U": "32", "Q": "64", "H": "16"}[to.place(target)[0]]
    out = ("s" if kind[0] == "s" else "b") + width
    kind = "b32" if kind == "f32" else kind  # of which there are the bits
    name = address[1:-1]
    one = f"A.parameters['{name}']"
    found = f"A.parameter({to.address(address)}, w)" if name.startswith("%") else one
    return to.put(target, out, f"{found}.astype(np.{NUMPY[BANKS[kind]]})")


def store(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``st.global`` and ``st.shared``, of registers or constants."""
    address, source = operands[:2]
    size = int(parts[-1][1:]) // 8
    if names(source)[0].startswith("%"):
        bank = to.place(names(source)[0])[0]
        words = f"L.columns({bank}, {to.rows(source)}, {size})"
    else:
        numbers = [int(x, 0) for x in names(source)]
        words = f"L.constants({numbers}, np.{NUMPY[_WORDS[size]]})"
    return [f"A.store_{_space(parts)}({to.address(address)}, {words}, w)"]


def _space(parts: Parts) -> str:
    """Of an access to memory; generic addresses are not known, nor those of other programs."""
    if parts[1] not in {"global", "shared"}:
        raise NotImplementedError(".".join(parts))
    return parts[1]


def load_matrix(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``ldmatrix``."""
    target, address = operands
    return [f"A.load_matrix({to.rows(target)}, {to.address(address)}, {'trans' in parts}, w)"]


def store_matrix(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``stmatrix``."""
    address, source = operands
    return [f"A.store_matrix({to.rows(source)}, {to.address(address)}, {'trans' in parts}, w)"]


def copy(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``cp.async``, its groups and waits."""
    if parts[2] == "commit_group":
        return ["A.copies.commit(w)"]
    if parts[2] == "wait_group":
        return [f"A.wait_for_copies({operands[0]}, w)"]
    if parts[2] not in {"ca", "cg"} or parts[3:] != ["shared", "global"]:
        raise NotImplementedError(".".join(parts))
    target, source, size, *rest = operands
    filled = to.value(rest[0], "u32") if rest else "None"
    arguments = f"{to.address(target)}, {to.address(source)}, {int(size, 0)}, {filled}, w"
    return [f"A.copy({arguments})"]


def barrier(_: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``bar.sync 0``; within a warp lanes are together anyway."""
    if parts[1] == "warp":
        return []
    if operands != ("0",):
        raise NotImplementedError(f"{'.'.join(parts)} {', '.join(operands)}")
    return ["L.pass_barrier(w)"]


def product(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``mma`` of a warp."""
    shape, orders, sums = parts[3], parts[4:6], parts[6]
    if shape not in {"m16n8k16", "m16n8k8"} or orders != ["row", "col"] or sums != "f32":
        raise NotImplementedError(".".join(parts))
    d, a, b, c = (to.rows(x) for x in operands)
    return [f"T.mma({d}, {a}, {b}, {c}, '{parts[7]}', w)"]


def group_product(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``wgmma`` of a warp group."""
    if parts[1] == "fence":
        return []
    if parts[1] == "commit_group":
        return ["T.reads.commit(w)"]
    if parts[1] == "wait_group":
        return [f"T.wait({operands[0]}, w)"]
    d, a, b, scale, *signs_and_orders = operands
    signs, orders = signs_and_orders[:2], signs_and_orders[2:]
    shape = re.fullmatch(r"m64n(\d+)k(\d+)", parts[4])
    if shape is None or parts[5] != "f32" or signs != ["1", "1"]:
        raise NotImplementedError(f"{'.'.join(parts)} {', '.join(signs)}")
    keep = to.value(scale, "pred")
    registers = a.startswith("{")
    left = to.rows(a) if registers else to.value(a, "b64")
    turned = [order == "1" for order in orders]  # of operands in shared memory
    if registers:
        turned.insert(0, False)
    turned = turned or [False, False]
    form = f"Form({shape[1]}, {shape[2]}, '{parts[-1]}', {turned[0]}, {turned[-1]})"
    return [f"T.wgmma({to.rows(d)}, {left}, {to.value(b, 'b64')}, {keep}, {form}, w)"]
