"""The manifest of a token store: what its files hold, and how to see that they still do.

A store is a folder::

    manifest.json          written last, so its presence means that the store is complete
    tokenizer.json         the tokenizer itself
    shard-00000.tok        raw little-endian tokens, uint16 or uint32
    shard-00000.off.npy    uint32 [documents + 1]: where documents start in the shard, and its end
    shard-00000.doc.npy    [documents] of (hash of the text, index of the input it came from)
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT_VERSION = 1
DOCUMENT_HASH = "blake2b-64 of the UTF-8 text"
TOKEN_HASH = "blake2b-64 of the ids as little-endian uint32"
"""Of documents that came as ids of a tokenizer that is not byte-level."""
DOCUMENT_DTYPE = np.dtype([("hash", "<u8"), ("source", "<u4")])
OFFSET_DTYPE = np.dtype("<u4")

SAMPLE_BLOCKS = 64
SAMPLE_BLOCK_BYTES = 4096

_RESTORE = "copy the store again, or prepare it again"


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file of the store, and what it must look like."""

    file: str
    bytes: int
    sha256: str
    sample: str
    """sha256 of 64 blocks spread over the file: cheap enough for every opening."""

    @classmethod
    def of(cls, path: Path) -> Self:
        """The entry of a file that was just written."""
        size = path.stat().st_size
        return cls(file=path.name, bytes=size, sha256=file_sha256(path), sample=sample_sha256(path))

    def check(self, folder: Path, *, itemsize: int | None = None, full: bool = False) -> None:
        """See that the file is there and looks like itself.

        Args:
            folder: where it should be.
            itemsize: bytes of a token, if it holds tokens; a wrong size is then told in tokens too.
            full: read all of it; else blocks spread over it.

        Raises:
            ValueError: it is missing, truncated or changed, or its name leads out of the folder.
        """
        path = inside(folder, self.file)
        if not path.is_file():
            raise ValueError(f"{path} is missing: {_RESTORE}")
        size = path.stat().st_size
        if size != self.bytes:
            in_tokens = ""
            if itemsize:
                part = " and a part of one" if size % itemsize else ""
                in_tokens = f" ({size // itemsize:,} tokens{part}, not {self.bytes // itemsize:,})"
            raise ValueError(
                f"{path} has {size:,} bytes, not {self.bytes:,}{in_tokens}: {_RESTORE}"
            )
        if sample_sha256(path) != self.sample or (full and file_sha256(path) != self.sha256):
            raise ValueError(f"{path} has changed since it was written: {_RESTORE}")


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A shard: whole documents, in order."""

    tokens: int
    documents: int
    min_id: int
    max_id: int
    token_file: FileEntry
    offset_file: FileEntry
    document_file: FileEntry

    @classmethod
    def read(cls, data: dict[str, Any]) -> Self:
        """From JSON."""
        names = ("token_file", "offset_file", "document_file")
        files: dict[str, Any] = {name: FileEntry(**data[name]) for name in names}
        return cls(**{**data, **files})

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Its three files."""
        return self.token_file, self.offset_file, self.document_file


@dataclass(frozen=True, kw_only=True)
class InputEntry:
    """What documents were made from: one file, or a folder of text files."""

    name: str
    files: int
    bytes: int
    sha256: str

    @classmethod
    def of(cls, name: str, paths: Sequence[Path]) -> Self:
        """The entry of these files, taken together."""
        digest = hashlib.sha256("\n".join(map(file_sha256, paths)).encode())
        size = sum(path.stat().st_size for path in paths)
        return cls(name=name, files=len(paths), bytes=size, sha256=digest.hexdigest())


@dataclass(frozen=True, kw_only=True)
class TokenizerEntry:
    """Which tokenizer, and what it adds: every document ends with ``end_of_text``."""

    name: str
    sha256: str
    end_of_text: int
    begin_of_text: int | None = None
    """The id that every document starts with, if there is one."""
    revision: str | None = None
    """The commit of a tokenizer from the Hugging Face hub."""

    @property
    def around(self) -> dict[str, int | None]:
        """The special tokens around every document."""
        return {"begin_of_text": self.begin_of_text, "end_of_text": self.end_of_text}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What preparation saw."""

    documents: int
    tokens: int
    empty: int
    malformed: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store holds."""

    format_version: int
    dtype: str
    vocab_size: int
    document_hash: str
    created_by: str
    tokenizer: TokenizerEntry
    inputs: tuple[InputEntry, ...]
    counts: Counts
    shards: tuple[ShardEntry, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of a store.

        Raises:
            ValueError: it is missing, damaged, or of another format version.
        """
        path = folder / "manifest.json"
        if not path.is_file():
            raise ValueError(
                f"{path} is missing, so the folder is no complete token store: write one with "
                "lmtrain prepare input=... out=..."
            )
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format version {data['format_version']}, not {FORMAT_VERSION}")
            return cls(**{**data, **_parts(data)})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} cannot be read ({error}): prepare the store again") from error

    def check(self, folder: Path) -> None:
        """See that the folder holds what the manifest says, by sizes and samples.

        Raises:
            ValueError: something is missing, truncated, changed or empty.
        """
        self.check_itself(folder)
        for shard in self.shards:
            for entry in shard.files:
                tokens = entry is shard.token_file
                entry.check(folder, itemsize=self.itemsize if tokens else None)

    def check_itself(self, folder: Path) -> None:
        """See that the manifest makes sense and that the tokenizer is the one it names.

        Raises:
            ValueError: it contradicts itself or is empty, or the tokenizer is another.
        """
        if not self.counts.documents or not self.shards:
            raise ValueError(f"{folder} holds no documents: prepare a store from input with text")
        tokenizer = folder / "tokenizer.json"
        if not tokenizer.is_file() or file_sha256(tokenizer) != self.tokenizer.sha256:
            raise ValueError(
                f"{tokenizer} is not the tokenizer that wrote the store: put the original back, or "
                "prepare the store again with the new one"
            )
        if not self._is_consistent():
            raise ValueError(f"{folder / 'manifest.json'} contradicts itself: {_RESTORE}")

    def _is_consistent(self) -> bool:
        """Whether ids fit the vocabulary, the vocabulary its type, and tokens their file."""
        fits = self.dtype == token_dtype(self.vocab_size).str
        adds_up = self.counts.tokens == sum(shard.tokens for shard in self.shards)
        return (fits and adds_up) and all(
            0 <= shard.min_id <= shard.max_id < self.vocab_size
            and 0 < shard.documents <= shard.tokens
            and shard.token_file.bytes == shard.tokens * self.itemsize
            for shard in self.shards
        )

    @property
    def itemsize(self) -> int:
        """Bytes of a token."""
        return token_dtype(self.vocab_size).itemsize

    def write(self, folder: Path) -> None:
        """Write it into the folder."""
        text = json.dumps(asdict(self), indent=1)
        (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")

    @property
    def checksum(self) -> str:
        """One hash over every token, document border and document hash of the store."""
        files = [entry.sha256 for shard in self.shards for entry in shard.files]
        return hashlib.sha256("\n".join([self.dtype, *files]).encode()).hexdigest()


def token_dtype(vocab_size: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    """The smallest type that holds every id."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def inside(folder: Path, name: str) -> Path:
    """A file of the folder, by a name that a manifest gave.

    Raises:
        ValueError: the name leads elsewhere.
    """
    if name != Path(name).name or "\0" in name or name in ("", "..", "."):
        raise ValueError(
            f"{folder / 'manifest.json'} names {name!r}, which is not a file beside it"
        )
    return folder / name


def file_sha256(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sample_sha256(path: Path) -> str:
    """sha256 of blocks spread evenly over a file, the first and the last included."""
    digest = hashlib.sha256()
    last = max(0, path.stat().st_size - SAMPLE_BLOCK_BYTES)
    with path.open("rb") as file:
        for block in range(SAMPLE_BLOCKS):
            file.seek(last * block // (SAMPLE_BLOCKS - 1))
            digest.update(file.read(SAMPLE_BLOCK_BYTES))
    return digest.hexdigest()


def _parts(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "tokenizer": TokenizerEntry(**data["tokenizer"]),
        "inputs": tuple(InputEntry(**entry) for entry in data["inputs"]),
        "counts": Counts(**data["counts"]),
        "shards": tuple(ShardEntry.read(entry) for entry in data["shards"]),
    }
