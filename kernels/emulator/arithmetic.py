"""Arithmetic as lines of Python: numbers in registers to numbers in registers.

Every function takes the operands' expressions, the parts of the opcode and the operands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.operands import BANKS, NUMPY, constant, names

if TYPE_CHECKING:
    from emulator.operands import Operands

Parts = list[str]
Texts = tuple[str, ...]

_UFUNCS = {
    **{"add": "add", "sub": "subtract", "mul": "multiply"},
    **{"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "not": "bitwise_not"},
    **{"min": "fmin", "max": "fmax", "neg": "negative", "abs": "absolute"},
}
_FUNCTIONS = {
    "ex2": "np.exp2({0})",
    "lg2": "np.log2({0})",
    "rsqrt": "1 / np.sqrt({0})",
    "sqrt": "np.sqrt({0})",
    "rcp": "1 / {0}",
}
_NARROW = {
    **{"add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "fma": "{0} * {1} + {2}"},
    **{"min": "np.fmin({0}, {1})", "max": "np.fmax({0}, {1})", "neg": "-{0}"},
}
NARROW = frozenset({"bf16", "bf16x2", "f16", "f16x2"})
"""Types of 16 bits: one number in a register, or two."""
_COMPARISONS = {
    **{"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="},
    **{"lo": "<", "ls": "<=", "hi": ">", "hs": ">="},
}
_UNORDERED = frozenset({"equ", "neu", "ltu", "leu", "gtu", "geu"})
_LOGIC = {"and": "&", "or": "|", "xor": "^"}
_TWO = {"bf16x2": "B.two_bf16", "f16x2": "B.two_f16"}


def simple(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``add sub mul.lo and or xor not min max neg abs``."""
    kind = parts[-1]
    if kind in NARROW:
        return _narrow(to, parts, operands)
    target, *sources = (to.value(operand, kind) for operand in operands)
    lines = [f"np.{_UFUNCS[parts[0]]}({', '.join(sources)}, out={target}, where=w)"]
    if "relu" in parts:
        zero = constant("0", BANKS[kind])
        lines.append(f"np.maximum({target}, {zero}, out={target}, where=w)")
    return lines


def _narrow(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """Arithmetic of 16 bits: in fp32, rounded once."""
    if {"f32", "relu"} & set(parts):
        raise NotImplementedError(".".join(parts))
    kind, dtype = "b32" if parts[-1].endswith("x2") else "b16", parts[-1].removesuffix("x2")
    numbers = [f"B.widened({to.value(x, kind)}, '{dtype}')" for x in operands[1:]]
    result = _NARROW[parts[0]].format(*numbers)
    return to.put(operands[0], kind, f"B.narrowed({result}, '{dtype}')")


def multiply(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``mul``: the low half, the high half or all of a product."""
    if parts[1] == "wide":
        return _wide(to, parts, (*operands, "0"))
    if parts[1] == "hi":
        kind = parts[-1]
        wide = {"u32": "uint64", "s32": "int64"}[kind]
        a, b = (f"np.{wide}(1) * {to.value(x, kind)}" for x in operands[1:])
        return to.put(operands[0], kind, f"({a}) * ({b}) >> np.{wide}(32)")
    return simple(to, parts, operands)


def multiply_add(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``mad`` of whole numbers."""
    if parts[1] == "wide":
        return _wide(to, parts, operands)
    if parts[1] != "lo":
        raise NotImplementedError(".".join(parts))
    a, b, c = (to.value(x, parts[-1]) for x in operands[1:])
    return to.put(operands[0], parts[-1], f"{a} * {b} + {c}")


def _wide(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """Products of twice the width."""
    kind = parts[-1]
    out = kind[0] + {"16": "32", "32": "64"}[kind[1:]]
    one = f"np.{NUMPY[BANKS[out]]}(1)"
    a, b = (f"({one} * {to.value(x, kind)})" for x in operands[1:3])
    return to.put(operands[0], out, f"{a} * {b} + {to.value(operands[3], out)}")


def fused(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``fma``: the product is exact."""
    if parts[-1] in NARROW:
        return _narrow(to, parts, operands)
    _only(parts, parts[-1], {"f32"})
    a, b, c = (to.value(x, "f32") for x in operands[1:])
    return to.put(operands[0], "f32", f"np.multiply({a}, {b}, dtype=np.float64) + {c}")


def divide(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``div`` of fp32 or whole numbers."""
    kind = parts[-1]
    a, b = (to.value(x, kind) for x in operands[1:])
    return to.put(operands[0], kind, f"{a} / {b}" if kind == "f32" else f"B.quotient({a}, {b})")


def remainder(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``rem``."""
    a, b = (to.value(x, parts[-1]) for x in operands[1:])
    return to.put(operands[0], parts[-1], f"{a} - B.quotient({a}, {b}) * {b}")


def function(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``ex2 lg2 rsqrt sqrt rcp``: as exact as fp32 is, where a card is off by a unit or two."""
    _only(parts, parts[-1], {"f32"})
    return to.put(operands[0], "f32", _FUNCTIONS[parts[0]].format(to.value(operands[1], "f32")))


def shift(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``shl shr`` by less than the width."""
    kind, sign = parts[-1], "<<" if parts[0] == "shl" else ">>"
    target, value, amount = operands
    if not amount.startswith("%") and int(amount, 0) >= int(kind[1:]):
        raise NotImplementedError(f"{'.'.join(parts)} by {amount}")
    by = f"{to.value(amount, 'u32')}.astype(np.{NUMPY[BANKS[kind]]})"
    return to.put(target, kind, f"{to.value(value, kind)} {sign} {by}")


def extract(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``bfe``: some bits, by constants."""
    kind, (target, value, start, length) = parts[-1], operands
    first, bits = int(start, 0), int(length, 0)
    up, number = int(kind[1:]) - first - bits, f"np.{NUMPY[BANKS[kind]]}"
    source = to.value(value, kind)
    return to.put(target, kind, f"({source} << {number}({up})) >> {number}({up + first})")


def move(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``mov``, also of two registers of 16 bits to one of 32 and back."""
    target, source = operands
    if target.startswith("{"):
        word, (low, high) = to.value(source, "b32"), names(target)
        halves = {low: word, high: f"{word} >> np.uint32(16)"}
        puts = (to.put(name, "b16", half) for name, half in halves.items() if name != "_")
        return [line for lines in puts for line in lines]
    if source.startswith("{"):
        low, high = (to.value(name, "b16") for name in names(source))
        return to.put(target, parts[-1], f"B.pack({low}, {high})")
    return to.put(target, parts[-1], to.value(source, parts[-1]))


def select(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``selp``."""
    a, b = (to.value(x, parts[-1]) for x in operands[1:3])
    return to.put(operands[0], parts[-1], f"np.where({to.value(operands[3], 'pred')}, {a}, {b})")


def compare(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``setp``, joined with another predicate or not."""
    a, b = (to.value(x, parts[-1]) for x in operands[1:3])
    truth = _truth(parts[1], parts[-1], a, b)
    if len(parts) > 3:
        truth = f"({truth}) {_LOGIC[parts[2]]} {to.value(operands[3], 'pred')}"
    return to.put(operands[0], "pred", truth)


def _truth(test: str, kind: str, a: str, b: str) -> str:
    """A comparison; with a nan it holds only if it is one of the unordered."""
    nan = f"np.isnan({a}) | np.isnan({b})"
    if test in {"num", "nan"}:
        return f"~({nan})" if test == "num" else nan
    if kind == "f32" and test in _UNORDERED:
        return f"({a} {_COMPARISONS[test[:-1]]} {b}) | {nan}"
    if kind == "f32" and test == "ne":
        return f"({a} != {b}) & ~({nan})"
    return f"{a} {_COMPARISONS[test]} {b}"


def convert(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``cvt``."""
    (kind, source), (target, *values) = parts[-2:], operands
    if kind in _TWO:
        _only(parts, source, {"f32"})
        high, low = (to.value(x, "f32") for x in values)
        return to.put(target, "b32", f"{_TWO[kind]}({high}, {low})")
    read = "b16" if source in {"bf16", "s8", "u8"} else source
    value = to.value(values[0], read)
    if source in {"s8", "u8"}:
        value = f"{value}.astype(np.{'int8' if source == 's8' else 'uint8'})"
    if source == "bf16":
        _only(parts, kind, {"f32"})
        return to.put(target, "f32", f"B.widened({value}, 'bf16')")
    if kind in {"bf16", "tf32"}:
        _only(parts, source, {"f32"})
        return to.put(target, "b16" if kind == "bf16" else "b32", f"B.to_{kind}({value})")
    if source == "f32" and kind[0] in "us" and "rzi" not in parts:
        raise NotImplementedError(".".join(parts))
    return to.put(target, kind, value)


def permute(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``prmt``, without its modes."""
    if len(parts) != 2:
        raise NotImplementedError(".".join(parts))
    a, b, control = (to.value(x, "b32") for x in operands[1:])
    return to.put(operands[0], "b32", f"B.permute({a}, {b}, {control})")


def shuffle(to: Operands, parts: Parts, operands: Texts) -> list[str]:
    """``shfl.sync`` over a whole warp."""
    target, value, by, bound, *_ = operands
    if "|" in target or int(bound, 0) not in {0, 31}:
        raise NotImplementedError(f"{'.'.join(parts)} {', '.join(operands)}")
    source = f"B.shuffle('{parts[2]}', {to.value(value, 'b32')}, {to.value(by, 'u32')})"
    return to.put(target, "b32", source)


def _only(parts: Parts, kind: str, known: set[str]) -> None:
    if kind not in known:
        raise NotImplementedError(".".join(parts))
