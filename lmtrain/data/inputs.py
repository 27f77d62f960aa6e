"""What ``input`` names: files and their formats, folders, patterns, datasets."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from lmtrain.data.hub import dataset_of
from lmtrain.data.prepare_config import InputFormat, PrepareConfig
from lmtrain.data.units import Input, UnitKind

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def _visible(folder: Path) -> Iterator[Path]:
    """What is in a folder at any depth, without hidden files and what is in hidden folders."""
    for path in folder.rglob("*"):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path
