"""A shard of a store that is being written."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

from lmtrain.data.manifest import DOCUMENT_DTYPE, OFFSET_DTYPE, FileEntry, ShardEntry

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

BLOCK_TOKENS = 1 << 22
"""Tokens that are copied at a time."""


class ShardWriter:
    """A shard that is being written: tokens on disk, the rest in memory."""

    def __init__(self, stem: Path, dtype: np.dtype[Any]) -> None:
        self.tokens = 0
        self._stem = stem
        self._dtype = dtype
        self._file = stem.with_suffix(".tok").open("wb")
        self._lengths = array("Q")
        self._hashes = array("Q")
        self._sources = array("I")
        self._min_id = np.iinfo(np.int64).max
        self._max_id = 0

    def append(
        self,
        tokens: NDArray[Any],
        lengths: NDArray[np.int64],
        hashes: NDArray[np.uint64],
        source: int,
    ) -> None:
        """Append documents of input number ``source``; none is empty."""
        for start in range(0, len(tokens), BLOCK_TOKENS):
            block = np.asarray(tokens[start : start + BLOCK_TOKENS], self._dtype)
            self._file.write(block.tobytes())
            self._min_id = min(self._min_id, int(block.min()))
            self._max_id = max(self._max_id, int(block.max()))
        self.tokens += len(tokens)
        self._lengths.frombytes(lengths.astype(np.uint64).tobytes())
        self._hashes.frombytes(hashes.tobytes())
        self._sources.extend([source] * len(lengths))

    def finish(self) -> ShardEntry:
        """Write what is in memory, and describe the three files."""
        self.close()
        documents = np.empty(len(self._hashes), DOCUMENT_DTYPE)
        documents["hash"], documents["source"] = self._hashes, self._sources
        offsets = np.zeros(len(documents) + 1, OFFSET_DTYPE)
        offsets[1:] = np.cumsum(self._lengths, dtype=np.uint64)
        np.save(self._stem.with_suffix(".off.npy"), offsets)
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
        """Close the file of tokens."""
        self._file.close()
