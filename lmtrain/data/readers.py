"""The documents of a unit, one after the other, and what in it cannot be read."""

from __future__ import annotations

import io
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lmtrain.data.columns import read_arrow, read_parquet
from lmtrain.data.lines import Lines, opened
from lmtrain.data.units import Unit, UnitKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.data.hub import HubDataset

WHOLE_CHARACTERS = 1 << 22
"""Text files up to this size are read at once, longer ones in parts of this size."""


@dataclass(frozen=True)
class Problem:
    """What cannot be read in ``file``: its line counts from the beginning of the unit, its row from
    the beginning of the file."""

    file: str
    reason: str
    line: int | None = None
    row: int | None = None


@dataclass(frozen=True)
class LongFile:
    """A text file that is one document, too large to be held in memory."""

    path: Path

    def __iter__(self) -> Iterator[str]:
        return _decoded(self.path)

    def sample(self) -> tuple[str, int]:
        """Its first part, and about how many characters it has, by how many bytes that part is."""
        with opened(self.path) as (file, raw):
            text = io.TextIOWrapper(file, encoding="utf-8-sig")
            part = text.read(WHOLE_CHARACTERS)
            return part, len(part) * self.path.stat().st_size // raw.tell()


Found = str | LongFile | Problem


class Reader:
    """What is found in a unit.

    While one iterates, ``position`` is about how many of the unit's bytes were read, and ``lines``
    how many lines began in it.
    """

    def __init__(self, unit: Unit, field: str, dataset: HubDataset | None = None) -> None:
        self._unit = unit
        self._field = field
        self._dataset = dataset
        self._lines = Lines(Path(unit.files[0]), unit.start, unit.stop)
        self._share = 0.0

    @property
    def file(self) -> str:
        """The file that it reads, or the first of them."""
        return self._unit.files[0]

    @property
    def lines(self) -> int:
        """Lines that begin in the unit; 0 where documents are not lines."""
        return self._lines.count

    @property
    def position(self) -> int:
        """About how many bytes were read."""
        return max(self._lines.position, int(self._share * self._unit.bytes))

    def __iter__(self) -> Iterator[Found]:
        try:
            yield from self._read()
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(
                f"{self._unit.files[0]} cannot be read ({error}): mend it or leave it out"
            ) from error

    def _read(self) -> Iterator[Found]:
        match self._unit.kind:
            case UnitKind.jsonl:
                return self._jsonl()
            case UnitKind.line:
                return self._text((([line], at) for line, at in self._lines.numbered()))
            case UnitKind.paragraph:
                return self._text(self._lines.paragraphs())
            case UnitKind.file:
                return self._files()
            case _:
                return self._column()

    def _jsonl(self) -> Iterator[Found]:
        for line, number in self._lines.numbered():
            if line.strip():
                yield self._found(_parse(line, self._field), line=number)

    def _text(self, parts: Iterator[tuple[list[bytes], int]]) -> Iterator[Found]:
        for lines, number in parts:
            try:
                text = b"".join(lines).decode().replace("\r\n", "\n").removesuffix("\n")
            except UnicodeDecodeError as error:
                yield Problem(self._unit.files[0], str(error), line=number)
                continue
            if text and not text.isspace():
                yield text

    def _files(self) -> Iterator[Found]:
        done = 0
        for name in self._unit.files:
            path = Path(name)
            done += path.stat().st_size
            self._share = done / max(1, self._unit.bytes)
            try:
                yield _document(path)
            except UnicodeDecodeError as error:
                yield Problem(name, str(error))

    def _column(self) -> Iterator[Found]:
        unit = self._unit
        match unit.kind:
            case UnitKind.parquet:
                values = read_parquet(Path(unit.files[0]), self._field, unit.start, unit.stop)
            case UnitKind.arrow:
                values = read_arrow(Path(unit.files[0]), self._field, unit.start, unit.stop)
            case _:
                assert self._dataset is not None
                values = self._dataset.read_shard(unit.start)
        for number, value in enumerate(values, 1):
            self._share = number / max(number, unit.rows)
            yield self._found(value, row=unit.first_row + number)

    def _found(self, value: object, *, line: int | None = None, row: int | None = None) -> Found:
        match value:
            case str() if _is_unicode(value):
                return value
            case str():
                reason = "the text has half of a surrogate pair"
            case Exception():
                reason = str(value)
            case _:
                reason = f"field={self._field} holds no text"
        return Problem(self._unit.files[0], reason, line, row)


def _document(path: Path) -> str | LongFile:
    """The document that a text file is; all of it was decoded once."""
    parts = _decoded(path)
    text = next(parts, "")
    blanks = [part.isspace() for part in parts]
    if not blanks:
        return text
    return "" if text.isspace() and all(blanks) else LongFile(path)


def _decoded(path: Path) -> Iterator[str]:
    """The text of a file, in parts that are neither empty nor too large."""
    with opened(path) as (file, _):
        text = io.TextIOWrapper(file, encoding="utf-8-sig")  # ends lines with a plain newline
        while part := text.read(WHOLE_CHARACTERS):
            yield part


def _parse(line: bytes, field: str) -> object:
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        return error
    if not isinstance(value, dict):
        return None
    entry = cast("dict[str, object]", value)
    if field not in entry:
        return ValueError(f"field={field} is not there: choose one of {', '.join(entry)}")
    return entry[field]


def _is_unicode(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
