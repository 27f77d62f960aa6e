"""Verification: every byte of a store is read and compared with its manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lmtrain.data.arrays import load_documents, load_offsets
from lmtrain.data.manifest import FileEntry, Manifest, ShardEntry, inside
from lmtrain.data.tokenize import load_tokenizer, vocab_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

BLOCK_TOKENS = 1 << 24
"""Tokens that are looked at together."""


@dataclass(frozen=True)
class FileReport:
    """A file of a store, and what is wrong with it, a sentence each."""

    file: str
    bytes: int
    problems: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        """One line for a person."""
        return f"{'WRONG' if self.problems else 'ok':<6} {self.file:<22} {self.bytes:>18,} bytes"


def verify(folder: Path) -> Iterator[FileReport]:
    """Read a store in full: checksums, document borders, ids, sources and special tokens.

    Yields:
        A report of each file, as soon as it was read.

    Raises:
        ValueError: the manifest cannot be read, contradicts itself or names files elsewhere, or
            the tokenizer is another.
    """
    manifest = Manifest.read(folder)
    manifest.check_itself(folder)
    yield FileReport("manifest.json", (folder / "manifest.json").stat().st_size)
    yield _verify_tokenizer(folder, manifest)
    for shard in manifest.shards:
        yield from _verify_shard(folder, manifest, shard)


def _verify_tokenizer(folder: Path, manifest: Manifest) -> FileReport:
    path = folder / "tokenizer.json"
    problems: list[str] = []
    size = vocab_size(load_tokenizer(path))
    if size != manifest.vocab_size:
        problems.append(f"{path} has {size:,} ids, and the manifest says {manifest.vocab_size:,}")
    return FileReport(path.name, path.stat().st_size, problems)


def _verify_shard(folder: Path, manifest: Manifest, shard: ShardEntry) -> Iterator[FileReport]:
    offsets, of_offsets = _load(folder, shard, shard.offset_file, load_offsets)
    documents, of_documents = _load(folder, shard, shard.document_file, load_documents)
    path = folder / shard.document_file.file
    if documents is not None and int(documents["source"].max()) >= len(manifest.inputs):
        of_documents.append(f"{path} names inputs that the manifest does not have")
    of_tokens = _check(folder, shard.token_file, itemsize=manifest.itemsize)
    if _size(folder, shard.token_file) == shard.token_file.bytes:
        of_tokens += _verify_tokens(folder, manifest, shard, offsets)
    for entry, problems in zip(shard.files, (of_tokens, of_offsets, of_documents), strict=True):
        yield FileReport(entry.file, _size(folder, entry), problems)


def _load(
    folder: Path,
    shard: ShardEntry,
    entry: FileEntry,
    load: Callable[[Path, ShardEntry], NDArray[Any]],
) -> tuple[NDArray[Any] | None, list[str]]:
    """An array of the shard, if it can be loaded, and what is wrong with its file."""
    problems = _check(folder, entry)
    if _size(folder, entry) != entry.bytes:
        return None, problems
    try:
        return load(folder, shard), problems
    except ValueError as error:
        return None, [*problems, str(error)]


def _check(folder: Path, entry: FileEntry, *, itemsize: int | None = None) -> list[str]:
    try:
        entry.check(folder, itemsize=itemsize, full=True)
    except ValueError as error:
        return [str(error)]
    return []


def _size(folder: Path, entry: FileEntry) -> int:
    """Bytes of a file; 0 if it is missing, and its name is one of the folder."""
    path = inside(folder, entry.file)
    return path.stat().st_size if path.is_file() else 0


def _verify_tokens(
    folder: Path, manifest: Manifest, shard: ShardEntry, offsets: NDArray[Any] | None
) -> list[str]:
    path = folder / shard.token_file.file
    tokens = np.memmap(path, manifest.dtype, mode="r")
    blocks = [tokens[i : i + BLOCK_TOKENS] for i in range(0, len(tokens), BLOCK_TOKENS)]
    found = min(int(b.min()) for b in blocks), max(int(b.max()) for b in blocks)
    problems: list[str] = []
    if found != (shard.min_id, shard.max_id):
        problems.append(
            f"{path} has ids {found[0]} to {found[1]}, not {shard.min_id} to {shard.max_id}"
        )
    if offsets is None:
        return problems
    borders = offsets.astype(np.int64)
    begin, end = manifest.tokenizer.begin_of_text, manifest.tokenizer.end_of_text
    if unended := int((tokens[borders[1:] - 1] != end).sum()):
        problems.append(f"{path} has {unended:,} documents that do not end with token {end}")
    if begin is not None and (unbegun := int((tokens[borders[:-1]] != begin).sum())):
        problems.append(f"{path} has {unbegun:,} documents that do not begin with token {begin}")
    return problems
