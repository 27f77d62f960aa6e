"""Reading documents out of files: JSON lines, parquet, text."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lmtrain.data.prepare_config import InputFormat, PrepareConfig, TextSplit

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIXES = {
    ".jsonl": InputFormat.jsonl,
    ".jsonl.gz": InputFormat.jsonl,
    ".parquet": InputFormat.parquet,
    ".txt": InputFormat.txt,
    ".md": InputFormat.txt,
}
"""What ``format=auto`` makes of the end of a name."""


@dataclass
class Malformed:
    """What could not be read, up to a limit."""

    limit: int
    places: list[str] = field(default_factory=list[str])

    def add(self, place: str, reason: object) -> None:
        """Note it.

        Raises:
            ValueError: it is one too many.
        """
        self.places.append(f"{place}: {reason}")
        if len(self.places) > self.limit:
            raise ValueError(
                f"more than max_errors={self.limit} parts of the input are malformed, the last is "
                f"{self.places[-1]}: mend the input or raise max_errors"
            )


def find_files(config: PrepareConfig) -> list[Path]:
    """The files that ``input`` names, in order.

    Raises:
        ValueError: there are none.
    """
    path = Path(config.input).expanduser()
    found = [path]
    if path.is_dir():
        found = [inner for inner in _visible(path) if file_format(inner, config)]
    elif not path.exists():
        found = list(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    found = sorted(file for file in found if file.is_file())
    if not found:
        raise ValueError(
            f"input={config.input} names no file to read with format={config.format}: give an "
            "existing file, folder or pattern, or another format"
        )
    return found


def _visible(folder: Path) -> Iterator[Path]:
    """What is in a folder at any depth, without hidden files and what is in hidden folders."""
    for path in folder.rglob("*"):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def file_format(path: Path, config: PrepareConfig) -> InputFormat | None:
    """What a file holds; None if ``auto`` does not know its suffix."""
    if config.format != InputFormat.auto:
        return config.format
    return next((kind for end, kind in SUFFIXES.items() if path.name.endswith(end)), None)


def read_documents(path: Path, config: PrepareConfig, malformed: Malformed) -> Iterator[str]:
    """The documents of a file.

    Raises:
        ValueError: the file cannot be read at all, or too much of the input is malformed.
    """
    for place, value in _read_values(path, config):
        if isinstance(value, Exception):
            malformed.add(place, value)
        elif not isinstance(value, str):
            malformed.add(place, f"field={config.field} holds no text")
        elif not _is_unicode(value):
            malformed.add(place, "the text has half of a surrogate pair")
        else:
            yield value


def _read_values(path: Path, config: PrepareConfig) -> Iterator[tuple[str, object]]:
    """Places in a file, and what stands there: a text, something else, or an error."""
    try:
        match file_format(path, config):
            case InputFormat.jsonl:
                yield from _read_jsonl(path, config.field)
            case InputFormat.parquet:
                yield from _read_parquet(path, config.field)
            case InputFormat.txt:
                yield from _read_text(path, config.split)
            case _:
                raise ValueError(
                    f"input={path} has no suffix that tells what it holds: choose one of "
                    "format=jsonl, parquet, txt"
                )
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}): mend it or leave it out") from error


def _read_jsonl(path: Path, field: str) -> Iterator[tuple[str, object]]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}:{number}", _parse(line, field)


def _parse(line: bytes, field: str) -> object:
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        return error
    return cast("dict[str, object]", value).get(field) if isinstance(value, dict) else None


def _read_parquet(path: Path, field: str) -> Iterator[tuple[str, object]]:
    arrow: Any = import_module("pyarrow")  # it has no types
    try:
        table = import_module("pyarrow.parquet").ParquetFile(path)
        if field not in table.schema_arrow.names:
            raise ValueError(
                f"field={field} is no column of {path}: choose one of "
                f"{', '.join(table.schema_arrow.names)}"
            )
        number = 0
        for batch in table.iter_batches(batch_size=256, columns=[field]):
            for value in batch.column(0).to_pylist():
                number += 1
                yield f"{path}:{number}", value
    except arrow.ArrowException as error:
        raise ValueError(f"{path} is no parquet file ({error}): mend it or leave it out") from error


def _read_text(path: Path, split: TextSplit) -> Iterator[tuple[str, object]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        yield str(path), error
        return
    match split:
        case TextSplit.file:
            parts = [text]
        case TextSplit.line:
            parts = text.split("\n")
        case TextSplit.paragraph:
            parts = re.split(r"\n\s*\n", text)
    yield from ((str(path), part) for part in parts if part.strip() or split == TextSplit.file)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
