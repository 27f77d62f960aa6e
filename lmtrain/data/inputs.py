"""What ``input`` names: files and their formats, folders, patterns, datasets."""

from __future__ import annotations

import os
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from lmtrain.data.hub import dataset_of
from lmtrain.data.prepare_config import InputFormat, PrepareConfig
from lmtrain.data.units import Input, UnitKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

TEXT_SUFFIXES = (
    *(".txt", ".md", ".rst", ".tex", ".html", ".css", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu"),
    *(".cuh", ".cs", ".go", ".java", ".js", ".jsx", ".ts", ".tsx", ".kt", ".swift", ".rs", ".py"),
    *(".pyi", ".rb", ".php", ".pl", ".lua", ".r", ".jl", ".scala", ".hs", ".ml", ".clj", ".ex"),
    *(".erl", ".sh", ".sql"),
)
"""Text and source code, as far as ``format=auto`` knows."""

SUFFIXES = {
    ".jsonl": InputFormat.jsonl,
    ".jsonl.gz": InputFormat.jsonl,
    ".jsonl.zst": InputFormat.jsonl,
    ".ndjson": InputFormat.jsonl,
    ".ndjson.gz": InputFormat.jsonl,
    ".ndjson.zst": InputFormat.jsonl,
    ".json.gz": InputFormat.jsonl,
    ".json.zst": InputFormat.jsonl,
    ".parquet": InputFormat.parquet,
    ".txt.gz": InputFormat.txt,
    ".txt.zst": InputFormat.txt,
    **dict.fromkeys(TEXT_SUFFIXES, InputFormat.txt),
}
"""What ``format=auto`` makes of the end of a name."""


def find_inputs(config: PrepareConfig) -> list[Input]:
    """The inputs, in order: each file is one, but text files of a folder are one.

    Raises:
        ValueError: there are none, or one has an unknown format.
    """
    if dataset := dataset_of(config):
        return [dataset.streamed() if config.streaming else dataset.downloaded()]

    def key(path: Path) -> tuple[str, UnitKind]:
        kind = _kind(path, config)
        return str(path if kind in (UnitKind.jsonl, UnitKind.parquet) else path.parent), kind

    grouped = groupby(find_files(config), key=key)
    return [Input(name, kind, tuple(files)) for (name, kind), files in grouped]


def find_files(config: PrepareConfig) -> list[Path]:
    """The files that ``input`` names, in order.

    Raises:
        ValueError: there are none.
    """
    found = [file for file in named(config.input) if file.is_file()]
    if Path(config.input).expanduser().is_dir():
        known = [file for file in found if file_format(file, config)]
        if known:
            _tell_unread(config.input, set(found).difference(known))
        found = known
    if not found:
        raise ValueError(
            f"input={config.input} names no file to read with format={config.format}: give an "
            "existing file, folder or pattern, or another format"
        )
    return found


def _tell_unread(name: str, unread: Collection[Path]) -> None:
    """Say which files of a folder are left out: they may be what the user means."""
    if not unread:
        return
    suffixes = Counter(path.suffix.lower() or "no suffix" for path in unread)
    told = ", ".join(f"{count:,} of {suffix}" for suffix, count in sorted(suffixes.items()))
    print(
        f"input={name}: files whose suffixes do not tell what they hold are not read, {told}: "
        "format=jsonl, parquet or txt reads every file",
        file=sys.stderr,
        flush=True,
    )


def file_format(path: Path, config: PrepareConfig) -> InputFormat | None:
    """What a file holds; None if ``auto`` does not know its suffix."""
    if config.format != InputFormat.auto:
        return config.format
    name = path.name.lower()
    return next((kind for end, kind in SUFFIXES.items() if name.endswith(end)), None)


def _kind(path: Path, config: PrepareConfig) -> UnitKind:
    match file_format(path, config):
        case InputFormat.txt:
            return UnitKind(config.split.value)
        case InputFormat.jsonl | InputFormat.parquet as known:
            return UnitKind(known.value)
        case _:
            raise ValueError(
                f"input={path} has no suffix that tells what it holds: choose one of "
                "format=jsonl, parquet, txt"
            )


def named(name: str) -> list[Path]:
    """The path of this name; what is in it, if it is a folder; or what fits it as a pattern."""
    path = Path(name).expanduser()
    if path.is_dir():
        return sorted(_visible(path))
    if path.exists() or not any(character in name for character in "*?["):
        return [path]
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def _visible(folder: Path) -> Iterator[Path]:
    """Files in a folder at any depth, but for hidden ones and those in hidden folders.

    Links to folders are followed, and each folder is entered once.
    """
    entered = set[tuple[int, int]]()
    for path, folders, names in os.walk(folder, followlinks=True):
        status = Path(path).stat()
        if (key := (status.st_dev, status.st_ino)) in entered:
            folders.clear()
            continue
        entered.add(key)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(path, name) for name in names if not name.startswith("."))
