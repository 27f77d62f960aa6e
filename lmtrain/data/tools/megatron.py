"""Megatron's indexed data sets: ``PREFIX.bin`` holds tokens, ``PREFIX.idx`` where they begin.

The index, little-endian::

    9 bytes    MMIDIDX, two zeros
    uint64     version, 1
    uint8      type of the tokens: 1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 8 uint16
    uint64     sequences S
    uint64     entries of the document index D, one more than documents
    int32 [S]  tokens of each sequence
    int64 [S]  byte of the tokens where it begins
    int64 [D]  number of the first sequence of each document, and S
"""

from __future__ import annotations

import struct
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from lmtrain.data.store import Side
from lmtrain.data.tools.foreign import TokenFile, check_ends, file_size, map_tokens, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from lmtrain.data.store import Store

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = "<9sQBQQ"
DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
"""Codes of the types that hold ids; 6 and 7 are floating."""

COPIED_TOKENS = 1 << 22
"""Tokens that are held in memory while a store is copied."""


def read_megatron(prefix: Path) -> TokenFile:
    """The documents of ``PREFIX.bin`` and ``PREFIX.idx``; one may be several sequences.

    Raises:
        ValueError: a file is missing, damaged, or of another kind.
    """
    index, data = _beside(prefix, ".idx"), _beside(prefix, ".bin")
    with_header = file_size(index)
    with index.open("rb") as file:
        head = unpack(HEADER, file.read(struct.calcsize(HEADER)), index)
    dtype, sequences, entries = _check_header(index, head)
    expected = struct.calcsize(HEADER) + 12 * sequences + 8 * entries
    if with_header == expected + sequences and sequences:
        raise ValueError(f"{index} gives sequences modes, as for images: import a text corpus")
    if with_header != expected:
        raise ValueError(f"{index} has {with_header:,} bytes, not {expected:,}: copy it again")
    ends = _document_ends(index, sequences, entries, dtype.itemsize)
    tokens = map_tokens(data, dtype, int(ends[-1]) if len(ends) else 0)
    return TokenFile(paths=(data, index), tokens=tokens, ends=ends)


def write_megatron(store: Store, prefix: Path) -> tuple[Path, Path]:
    """Write every document of a store as a sequence of its own, special tokens included.

    Returns:
        The two files.

    Raises:
        ValueError: one of them exists, or a document or an id is too large for the format.
    """
    index, data = _beside(prefix, ".idx"), _beside(prefix, ".bin")
    lengths = store.documents(Side.train).lengths
    _check_export(store, lengths, index, data)
    dtype = np.dtype("<u2" if store.manifest.dtype == "<u2" else "<i4")
    data.parent.mkdir(parents=True, exist_ok=True)
    partial = [path.with_name(f".{path.name}.partial") for path in (data, index)]
    try:
        with partial[0].open("wb") as file:
            for tokens in _blocks(store):
                file.write(tokens.astype(dtype).tobytes())
        with partial[1].open("wb") as file:
            _write_index(file, lengths, dtype)
        partial[0].rename(data)
        partial[1].rename(index)
    finally:
        for path in partial:
            path.unlink(missing_ok=True)
    return data, index


def _blocks(store: Store) -> Iterator[NDArray[Any]]:
    """All tokens of a store, in order."""
    first = 0
    for shard in store.manifest.shards:
        for start in range(0, shard.tokens, COPIED_TOKENS):
            count = min(COPIED_TOKENS, shard.tokens - start)
            yield store.read(np.array([first + start]), count)[0]
        first += shard.tokens


def _check_export(store: Store, lengths: NDArray[np.int64], *paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise ValueError(f"{path} exists: choose another out=PREFIX, or delete it first")
    largest = max(int(lengths.max()), store.vocab_size)
    if largest > np.iinfo(np.int32).max:
        raise ValueError(
            f"{store.folder} has a document length or a vocabulary of {largest:,}, and the format "
            "has 31 bits for it: train from the store itself"
        )


def _check_header(index: Path, head: tuple[Any, ...]) -> tuple[np.dtype[Any], int, int]:
    magic, version, code, sequences, entries = head
    if magic != MAGIC:
        raise ValueError(f"{index} is no index of Megatron: give the prefix of PREFIX.bin and .idx")
    if version != VERSION:
        raise ValueError(f"{index} has version {version}, not {VERSION}: write it with Megatron")
    if code not in DTYPES:
        raise ValueError(f"{index} has type {code}, which holds no token ids: import a text corpus")
    return np.dtype(DTYPES[code]), sequences, entries


def _document_ends(index: Path, sequences: int, entries: int, itemsize: int) -> NDArray[np.int64]:
    """``[documents]`` token positions; sequences must follow one another as documents must."""
    offset = struct.calcsize(HEADER)
    sizes = np.fromfile(index, "<i4", sequences, offset=offset).astype(np.int64)
    pointers = np.fromfile(index, "<i8", sequences, offset=offset + 4 * sequences)
    firsts = np.fromfile(index, "<i8", entries, offset=offset + 12 * sequences)
    positions = np.concatenate([[0], np.cumsum(sizes)])
    if (sizes < 0).any() or (pointers != positions[:-1] * itemsize).any():
        raise ValueError(
            f"{index} has sequences that do not follow one another: write it again with Megatron's "
            "own merging tool"
        )
    check_ends(index, firsts)
    if entries < 1 or firsts[0] != 0 or firsts[-1] != sequences:
        raise ValueError(
            f"{index} has documents that do not cover its {sequences:,} sequences: copy it again"
        )
    return positions[firsts[1:]]


def _write_index(file: IO[bytes], lengths: NDArray[np.int64], dtype: np.dtype[Any]) -> None:
    count = len(lengths)
    code = next(code for code, name in DTYPES.items() if np.dtype(name) == dtype)
    starts = np.cumsum(lengths) - lengths
    file.write(struct.pack(HEADER, MAGIC, VERSION, code, count, count + 1))
    file.write(lengths.astype("<i4").tobytes())
    file.write((starts * dtype.itemsize).astype("<i8").tobytes())
    file.write(np.arange(count + 1, dtype="<i8").tobytes())


def _beside(prefix: Path, suffix: str) -> Path:
    """``PREFIX.bin`` or ``PREFIX.idx``, whichever of PREFIX, its bin or its idx was given."""
    stem = prefix.with_suffix("") if prefix.suffix in (".bin", ".idx") else prefix
    return stem.with_name(stem.name + suffix)
