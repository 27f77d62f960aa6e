"""Writing a token store: texts go in, a complete folder comes out or nothing does."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from tokenizers import Tokenizer

from lmtrain.data.manifest import (
    DOCUMENT_DTYPE,
    DOCUMENT_HASH,
    FORMAT_VERSION,
    OFFSET_DTYPE,
    Counts,
    FileEntry,
    InputEntry,
    Manifest,
    ShardEntry,
    TokenizerEntry,
    file_sha256,
    token_dtype,
)
from lmtrain.data.tokenize import encode, text_hash, vocab_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

SHARD_TOKENS = 1 << 31
"""A shard is closed when it holds so many: offsets inside it stay below 2^32."""

BATCH_CHARACTERS = 1 << 22
"""Text that is tokenised, and held in memory, at a time."""


@dataclass(kw_only=True)
class Writer:
    """A store in the making, in a folder beside ``out`` that becomes ``out`` at the end.

    ``with Writer(...) as writer:`` ``add`` texts, then ``finish``. Leaving without having finished
    leaves nothing behind. The caller holds the lock of ``out``.
    """

    out: Path
    tokenizer: Tokenizer
    tokenizer_name: str
    end_of_text: int
    shard_tokens: int = SHARD_TOKENS
    document_hash: str = DOCUMENT_HASH
    """What the hashes of documents are; see the manifest."""
    empty: int = 0
    _shards: list[ShardEntry] = field(default_factory=list[ShardEntry])
    _shard: _Shard | None = None

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)  # of a process that was killed
        self._folder.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._shard:
            self._shard.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, texts: Sequence[str], *, source: int = 0) -> int:
        """Append documents of input number ``source``; blank ones are counted and left out.

        Returns:
            How many tokens they have.
        """
        filled = [text for text in texts if text.strip()]
        self.empty += len(texts) - len(filled)
        added = 0
        for text, ids in zip(filled, encode(self.tokenizer, filled), strict=True):
            self._open_shard().append([*ids, self.end_of_text], text_hash(text), source)
            added += len(ids) + 1
        return added

    def add_ids(self, ids: NDArray[Any], document_hash: int, *, source: int = 0) -> None:
        """Append a document that is ``[tokens]`` ids already, its end of text included."""
        self._open_shard().append(ids, document_hash, source)

    def finish(self, inputs: Iterable[InputEntry], *, malformed: int = 0) -> None:
        """Write the manifest, make everything durable, and give the folder its name."""
        self._close_shard()
        if not self._shards:
            raise ValueError(f"no text for {self.out}: every document of the input is empty")
        (self._folder / "tokenizer.json").write_text(self.tokenizer.to_str(), encoding="utf-8")
        self._manifest(tuple(inputs), malformed).write(self._folder)
        for path in [*self._folder.iterdir(), self._folder]:
            sync(path)
        self._folder.rename(self.out)
        sync(self.out.parent)

    def _manifest(self, inputs: tuple[InputEntry, ...], malformed: int) -> Manifest:
        size = vocab_size(self.tokenizer)
        return Manifest(
            format_version=FORMAT_VERSION,
            dtype=token_dtype(size).str,
            vocab_size=size,
            document_hash=self.document_hash,
            created_by=shlex.join(sys.orig_argv),
            tokenizer=TokenizerEntry(
                name=self.tokenizer_name,
                sha256=file_sha256(self._folder / "tokenizer.json"),
                end_of_text=self.end_of_text,
            ),
            inputs=inputs,
            counts=Counts(
                documents=sum(shard.documents for shard in self._shards),
                tokens=sum(shard.tokens for shard in self._shards),
                empty=self.empty,
                malformed=malformed,
            ),
            shards=tuple(self._shards),
        )

    def _open_shard(self) -> _Shard:
        if self._shard and self._shard.tokens >= self.shard_tokens:
            self._close_shard()
        if not self._shard:
            stem = self._folder / f"shard-{len(self._shards):05d}"
            self._shard = _Shard(stem, token_dtype(vocab_size(self.tokenizer)))
        return self._shard

    def _close_shard(self) -> None:
        if self._shard:
            self._shards.append(self._shard.finish())
            self._shard = None

    @property
    def _folder(self) -> Path:
        return self.out.with_name(f".{self.out.name}.partial")


class _Shard:
    """A shard that is being written: tokens on disk, the rest in memory."""

    def __init__(self, stem: Path, dtype: np.dtype[np.uint16] | np.dtype[np.uint32]) -> None:
        self.tokens = 0
        self._stem = stem
        self._dtype = dtype
        self._file = stem.with_suffix(".tok").open("wb")
        self._ends = array("Q", [0])
        self._hashes = array("Q")
        self._sources = array("L")
        self._min_id = np.iinfo(np.int64).max
        self._max_id = 0

    def append(self, ids: Sequence[int] | NDArray[Any], text_hash: int, source: int) -> None:
        tokens = np.asarray(ids, self._dtype)
        self._file.write(tokens.tobytes())
        self._min_id = min(self._min_id, int(tokens.min()))
        self._max_id = max(self._max_id, int(tokens.max()))
        self.tokens += len(tokens)
        self._ends.append(self.tokens)
        self._hashes.append(text_hash)
        self._sources.append(source)

    def finish(self) -> ShardEntry:
        self.close()
        documents = np.empty(len(self._hashes), DOCUMENT_DTYPE)
        documents["hash"], documents["source"] = self._hashes, self._sources
        np.save(self._stem.with_suffix(".off.npy"), np.asarray(self._ends, OFFSET_DTYPE))
        np.save(self._stem.with_suffix(".doc.npy"), documents)
        return ShardEntry(
            tokens=self.tokens,
            documents=len(documents),
            min_id=self._min_id,
            max_id=self._max_id,
            token_file=FileEntry.of(self._stem.with_suffix(".tok")),
            offset_file=FileEntry.of(self._stem.with_suffix(".off.npy")),
            document_file=FileEntry.of(self._stem.with_suffix(".doc.npy")),
        )

    def close(self) -> None:
        self._file.close()


def batched(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of consecutive texts, each of about ``BATCH_CHARACTERS``."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
