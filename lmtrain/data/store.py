"""A token store that is open: documents by their place, tokens by their position."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from lmtrain.data import stdlib, tokenize
from lmtrain.data.arrays import load_documents, load_offsets
from lmtrain.data.lock import locked
from lmtrain.data.manifest import FORMAT_VERSION, Manifest

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from lmtrain.data.config import DataConfig


class Side(StrEnum):
    """Which documents: those that train, or those that validate."""

    train = "train"
    validation = "validation"


class Documents(NamedTuple):
    """Documents of a store: ``starts`` and ``lengths`` in tokens, int64 ``[documents]``."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def first(self, documents: int | None, tokens: int | None) -> Documents:
        """As many of the first as stay within both limits, but at least one."""
        count = len(self.lengths) if documents is None else documents
        if tokens is not None:
            within = np.searchsorted(np.cumsum(self.lengths), tokens, side="right")
            count = min(count, max(1, int(within)))
        return Documents(self.starts[:count], self.lengths[:count])


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which documents of a store are used, and how they are split."""

    val_fraction: float = 0.05
    max_documents: int | None = None
    max_tokens: int | None = None


class Store:
    """An open store. Positions count tokens over all shards, in document order.

    Args:
        folder: where it is.
        selection: which documents of it are used.

    Raises:
        ValueError: it is missing, incomplete, damaged, changed or empty.
    """

    def __init__(self, folder: Path, selection: Selection | None = None) -> None:
        self.folder = folder
        self.selection = selection or Selection()
        if not folder.is_dir():
            raise ValueError(
                f"data.source={folder} is no folder: prepare a store there with "
                f"lmtrain prepare input=... out={folder}, or use data=stdlib"
            )
        self.manifest = Manifest.read(folder)
        self.manifest.check(folder)
        self._ends = np.cumsum([0, *(shard.tokens for shard in self.manifest.shards)])

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        return self.manifest.vocab_size

    @property
    def identity(self) -> dict[str, Any]:
        """What decides which tokens stand at which position of which document."""
        return {
            "data.source": self.manifest.checksum,
            "data.max_documents": len(self._selected.starts),
            "data.val_fraction": self.selection.val_fraction,
        }

    @property
    def end_of_text(self) -> int:
        """The id that ends every document."""
        return self.manifest.tokenizer.end_of_text

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that wrote it."""
        return tokenize.load_tokenizer(self.folder / "tokenizer.json")

    @cached_property
    def token_bytes(self) -> NDArray[np.int64] | None:
        """``[vocab]`` bytes of text that each id stands for; None if that is not a fixed number."""
        return tokenize.token_bytes(self.tokenizer())

    def documents(self, side: Side) -> Documents:
        """The documents of one side of the split, in the order of the store."""
        here = self._validates == (side == Side.validation)
        return Documents(self._selected.starts[here], self._selected.lengths[here])

    def read(self, starts: NDArray[np.int64], length: int) -> NDArray[Any]:
        """``[len(starts), length]`` tokens from each position on, in the integers of the store."""
        tokens = np.empty((len(starts), length), self.manifest.dtype)
        shards = np.searchsorted(self._ends, starts, side="right") - 1
        for shard in np.unique(shards):
            here = shards == shard
            windows: NDArray[Any] = sliding_window_view(self._tokens[int(shard)], length)
            tokens[here] = windows[starts[here] - self._ends[shard]]
        return tokens

    def read_stretches(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[Any]:
        """``[sum(lengths)]`` tokens: stretches of documents, one after the other."""
        tokens = np.empty(int(lengths.sum()), self.manifest.dtype)
        shards = np.searchsorted(self._ends, starts, side="right") - 1
        places, at = starts - self._ends[shards], 0
        maps = [np.asarray(shard) for shard in self._tokens]  # slices of a memmap are slow
        for shard, start, length in zip(
            shards.tolist(), places.tolist(), lengths.tolist(), strict=True
        ):
            tokens[at : at + length] = maps[shard][start : start + length]
            at += length
        return tokens

    @cached_property
    def _tokens(self) -> list[NDArray[Any]]:
        return [
            np.memmap(self.folder / shard.token_file.file, self.manifest.dtype, mode="r")
            for shard in self.manifest.shards
        ]

    @cached_property
    def _selected(self) -> Documents:
        """The first documents, up to the limits."""
        offsets = [
            load_offsets(self.folder, shard).astype(np.int64) for shard in self.manifest.shards
        ]
        starts = [end + part[:-1] for end, part in zip(self._ends[:-1], offsets, strict=True)]
        lengths = [np.diff(part) for part in offsets]
        every = Documents(np.concatenate(starts), np.concatenate(lengths))
        return every.first(self.selection.max_documents, self.selection.max_tokens)

    @cached_property
    def _validates(self) -> NDArray[np.bool_]:
        hashes = np.concatenate(
            [load_documents(self.folder, shard)["hash"] for shard in self.manifest.shards]
        )
        return hashes[: len(self._selected.starts)] < self.selection.val_fraction * 2.0**64


def open_store(config: DataConfig) -> Store:
    """The store of ``config.source``; the one of ``stdlib`` is made at first use, and kept.

    Raises:
        ValueError: it is missing, incomplete, damaged, changed or empty.
    """
    selection = Selection(
        val_fraction=config.val_fraction,
        max_documents=config.max_documents,
        max_tokens=config.max_tokens,
    )
    if config.source != "stdlib":
        return Store(Path(config.source), selection)
    folder = _stdlib_folder(config)
    try:
        return Store(folder, selection)
    except ValueError as error:
        raise ValueError(f"{error}; it is made anew when you delete {folder}") from error


def cache_folder(config: DataConfig) -> Path:
    """Where what is made at first use is kept."""
    return Path(config.cache or os.environ.get("LMTRAIN_CACHE") or "~/.cache/lmtrain").expanduser()


def _stdlib_folder(config: DataConfig) -> Path:
    """The folder of the embedded corpus, which is made here if it is not there yet."""
    cache = cache_folder(config)
    folder = cache / f"{stdlib.stdlib_name()}-bpe{config.vocab_size}-v{FORMAT_VERSION}"
    if folder.exists():
        return folder
    try:
        with locked(folder, wait=True):
            if not folder.exists():  # another process may have made it while this one waited
                stdlib.write_stdlib(folder, vocab_size=config.vocab_size)
    except OSError as error:
        raise ValueError(
            f"data.cache={cache} cannot be written ({error}): choose another folder with "
            "data.cache=PATH"
        ) from error
    return folder
