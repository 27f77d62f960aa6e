"""Writing a token store: texts go in, a complete folder comes out or nothing does."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from tokenizers import Tokenizer

from lmtrain.data.encoding import Encoded, Encoder
from lmtrain.data.manifest import (
    DOCUMENT_HASH,
    FORMAT_VERSION,
    OFFSET_DTYPE,
    Counts,
    InputEntry,
    Manifest,
    ShardEntry,
    TokenizerEntry,
    file_sha256,
    token_dtype,
)
from lmtrain.data.shard import ShardWriter
from lmtrain.data.tokenize import vocab_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

SHARD_TOKENS = 1 << 31
"""No shard holds more, unless one document does."""

LONGEST_DOCUMENT = np.iinfo(OFFSET_DTYPE).max
"""Tokens that offsets can count."""


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
    begin_of_text: int | None = None
    tokenizer_revision: str | None = None
    shard_tokens: int = SHARD_TOKENS
    document_hash: str = DOCUMENT_HASH
    """What the hashes of documents are; see the manifest."""
    empty: int = 0
    _shards: list[ShardEntry] = field(default_factory=list[ShardEntry])
    _shard: ShardWriter | None = None

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
        encoded = self._encoder(texts)
        self.append(encoded, source=source)
        return len(encoded.tokens)

    def append(self, documents: Encoded, *, source: int = 0) -> None:
        """Append encoded documents of input number ``source``; those of length 0 are only counted.

        Raises:
            ValueError: a document is longer than offsets can count.
        """
        filled = documents.lengths > 0
        self.empty += int((~filled).sum())
        lengths, hashes = documents.lengths[filled], documents.hashes[filled]
        if len(lengths) and lengths.max() > LONGEST_DOCUMENT:
            raise ValueError(
                f"a document has {lengths.max():,} tokens, and a store holds documents of up to "
                f"{LONGEST_DOCUMENT:,}: split it"
            )
        ends: NDArray[np.int64] = np.insert(np.cumsum(lengths), 0, 0)
        first = 0
        while first < len(lengths):
            shard, last = self._room(ends, first)
            tokens = documents.tokens[ends[first] : ends[last]]
            shard.append(tokens, lengths[first:last], hashes[first:last], source)
            first = last

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
                begin_of_text=self.begin_of_text,
                revision=self.tokenizer_revision,
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

    def _room(self, ends: NDArray[np.int64], first: int) -> tuple[ShardWriter, int]:
        """The shard for the document ``first``, and the first document that it has no room for."""
        if self._shard:
            last = _within(ends, first, self.shard_tokens - self._shard.tokens)
            if last > first:
                return self._shard, last
            self._close_shard()
        stem = self._folder / f"shard-{len(self._shards):05d}"
        self._shard = ShardWriter(stem, self._encoder.dtype)
        return self._shard, max(_within(ends, first, self.shard_tokens), first + 1)

    def _close_shard(self) -> None:
        if self._shard:
            self._shards.append(self._shard.finish())
            self._shard = None

    @property
    def tokens(self) -> int:
        """How many there are so far."""
        return sum(shard.tokens for shard in [*self._shards, self._shard] if shard)

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder.of(self.tokenizer, self.end_of_text, self.begin_of_text)

    @property
    def _folder(self) -> Path:
        return self.out.with_name(f".{self.out.name}.partial")


def _within(ends: NDArray[np.int64], first: int, tokens: int) -> int:
    """The first document from ``first`` on that ends more than ``tokens`` behind its beginning."""
    return int(np.searchsorted(ends, int(ends[first]) + tokens, side="right")) - 1


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
