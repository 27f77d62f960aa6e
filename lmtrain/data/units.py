"""The units of preparation: parts of the input of like size, which workers take one at a time.

A unit is a range of bytes, some row groups, or some small files; what is compressed is one unit a
file. The units, and their order, depend on the input alone, and so does the store.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from lmtrain.data.columns import arrow_rows, parquet_groups
from lmtrain.data.lines import COMPRESSED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

UNIT_BYTES = 1 << 24
"""About how much of the input is one unit: some seconds of work."""


class UnitKind(StrEnum):
    """How documents stand in the files of a unit."""

    jsonl = "jsonl"
    line = "line"
    paragraph = "paragraph"
    file = "file"
    parquet = "parquet"
    arrow = "arrow"
    stream = "stream"


@dataclass(frozen=True)
class Input:
    """Files that are one source of documents; ``shards`` of a stream, which has no files."""

    name: str
    kind: UnitKind
    files: tuple[Path, ...] = ()
    shards: int = 0

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(file.stat().st_size for file in self.files)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Part of input number ``source``: of its files what lies in ``[start, stop)``.

    That counts bytes of lines and paragraphs, row groups of parquet, batches of arrow, shards of a
    stream, and nothing for whole files. ``stop`` None is the end. ``bytes`` is its size on disk, or
    nearly; a table also has ``rows``, and ``first_row`` how many of its file are before it.
    """

    number: int = 0
    source: int = 0
    kind: UnitKind
    files: tuple[str, ...]
    start: int = 0
    stop: int | None = None
    first_row: int = 0
    rows: int = 0
    bytes: int


def plan_units(inputs: Sequence[Input], *, field: str) -> list[Unit]:
    """The units of all inputs, in the order of their documents.

    Raises:
        ValueError: a table cannot be read, or has no column ``field``.
    """
    units = (
        replace(unit, source=source)
        for source, entry in enumerate(inputs)
        for unit in _units_of(entry, field)
    )
    return [replace(unit, number=number) for number, unit in enumerate(units)]


def _units_of(entry: Input, field: str) -> Iterator[Unit]:
    match entry.kind:
        case UnitKind.file:
            yield from _groups(entry.files)
        case UnitKind.stream:
            for shard in range(entry.shards):
                yield Unit(
                    kind=entry.kind, files=(entry.name,), start=shard, stop=shard + 1, bytes=0
                )
        case UnitKind.parquet:
            for file in entry.files:
                yield from _tables(entry.kind, file, parquet_groups(file, field))
        case UnitKind.arrow:
            for file in entry.files:
                yield from _tables(entry.kind, file, arrow_rows(file, field))
        case _:
            for file in entry.files:
                yield from _ranges(entry.kind, file)


def _groups(files: Iterable[Path]) -> Iterator[Unit]:
    """Whole files, small ones together."""
    group: list[str] = []
    size = 0
    for file in files:
        group.append(str(file))
        size += file.stat().st_size
        if size >= UNIT_BYTES:
            yield Unit(kind=UnitKind.file, files=tuple(group), bytes=size)
            group, size = [], 0
    if group:
        yield Unit(kind=UnitKind.file, files=tuple(group), bytes=size)


def _ranges(kind: UnitKind, file: Path) -> Iterator[Unit]:
    """Ranges of bytes of one file."""
    size = file.stat().st_size
    if file.suffix in COMPRESSED:
        yield Unit(kind=kind, files=(str(file),), bytes=size)
        return
    count = -(-size // UNIT_BYTES)
    for part in range(count):
        start, stop = size * part // count, size * (part + 1) // count
        yield Unit(kind=kind, files=(str(file),), start=start, stop=stop, bytes=stop - start)


def _tables(kind: UnitKind, file: Path, groups: Sequence[tuple[int, int]]) -> Iterator[Unit]:
    """Some of the ``groups`` (rows and bytes of each) of one file at a time."""
    start = first_row = rows = size = 0
    for number, (more_rows, more_bytes) in enumerate(groups, 1):
        rows, size = rows + more_rows, size + more_bytes
        if size >= UNIT_BYTES or number == len(groups):
            yield Unit(
                kind=kind,
                files=(str(file),),
                start=start,
                stop=number,
                first_row=first_row,
                rows=rows,
                bytes=size,
            )
            start, first_row, rows, size = number, first_row + rows, 0, 0
