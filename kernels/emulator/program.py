"""What a PTX text says: registers, parameters, instructions (PTX ISA 8.7, chapters 4-9)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_STATEMENT = re.compile(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s*(.*)", re.DOTALL)
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(%\w+?)<(\d+)>")
_PARAMETER = re.compile(r"\.param\s+\.(\w+)[^,)]*?(\w+_param_\d+)")
_SOURCE = re.compile(r"([\w.]+):(\d+):\d+")
_JUMPS = frozenset({"bra", "bra.uni", "ret"})


class Instruction(NamedTuple):
    """One instruction: ``@predicate opcode operands``."""

    opcode: str
    operands: tuple[str, ...]
    predicate: str | None
    """The register that must hold, or must not if ``negated``."""
    negated: bool
    where: str
    """The source line that it comes from, ``dots.py:55 delta_prepare.py:194``: innermost first."""


class Program(NamedTuple):
    """A kernel: its blocks run from the first to the last, but for jumps at their ends."""

    name: str
    parameters: dict[str, str]
    """Types by name, in the order of the launch: ``{"_walk_param_0": "u64"}``."""
    registers: dict[str, tuple[str, int]]
    """Type and number by prefix: ``{"%r": ("b32", 512)}``."""
    threads: int
    blocks: tuple[tuple[Instruction, ...], ...]
    labels: dict[str, int]
    """The block that a label stands before."""


def parse(text: str) -> Program:
    """The only kernel of a PTX ``text``.

    Raises:
        ValueError: it has none, or a line is no statement.
    """
    entry = re.search(r"\.entry\s+(\w+)\((.*?)\)(.*?)\n\{(.*?)\n\}", text, re.DOTALL)
    if entry is None:
        raise ValueError("this PTX has no kernel")
    name, parameters, head, body = entry.groups()
    threads = re.search(r"\.reqntid\s+(\d+)", head)
    if threads is None:
        raise ValueError(f"{name} does not say how many threads it wants (.reqntid)")
    declared = {m[1]: (m[0], int(m[2])) for m in _REGISTERS.findall(body)}
    blocks, labels = _blocks(body)
    types = {m[1]: m[0] for m in _PARAMETER.findall(parameters)}
    return Program(name, types, declared, int(threads[1]), blocks, labels)


def _blocks(body: str) -> tuple[tuple[tuple[Instruction, ...], ...], dict[str, int]]:
    blocks: list[list[Instruction]] = [[]]
    labels: dict[str, int] = {}
    for statement, where in _statements(body):
        if statement.endswith(":"):
            if blocks[-1]:
                blocks.append([])
            labels[statement[:-1]] = len(blocks) - 1
            continue
        blocks[-1].append(_instruction(statement, where))
        if blocks[-1][-1].opcode in _JUMPS:
            blocks.append([])
    return tuple(tuple(block) for block in blocks), labels


def _statements(body: str) -> Iterable[tuple[str, str]]:
    """Instructions and labels of jumps (``name:``), each with its line of the source."""
    where = ""
    for line in body.splitlines():
        text, _, comment = line.partition("//")
        text = text.strip()
        if text.startswith(".loc"):
            where = " ".join(f"{file}:{number}" for file, number in _SOURCE.findall(comment))
        elif text.startswith(".") or text in {"{", "}", ""}:
            continue
        elif text.endswith(":"):
            if text.startswith("$L__BB"):
                yield text, where
        else:
            for part in filter(None, map(str.strip, text.split(";"))):
                yield part, where


def _instruction(statement: str, where: str) -> Instruction:
    match = _STATEMENT.fullmatch(statement)
    if match is None:
        raise ValueError(f"not a statement of PTX: {statement}")
    negated, predicate, opcode, operands = match.groups()
    opcode = opcode.replace("shared::cta", "shared")  # two names of one memory (PTX, state spaces)
    return Instruction(opcode, _operands(operands), predicate, bool(negated), where)


def _operands(text: str) -> tuple[str, ...]:
    """Operands, without spaces: ``{%r1,%r2}``, ``[%rd4+16]``, ``%r3``, ``0x10``."""
    tight = re.sub(r"\s", "", text)
    return tuple(re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,{}\[\]]+", tight))
