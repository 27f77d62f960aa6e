"""The arrays of a shard: where its documents are, and what is known of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lmtrain.data.manifest import DOCUMENT_DTYPE, OFFSET_DTYPE, ShardEntry, inside

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def load_array(path: Path, dtype: np.dtype[Any], length: int) -> NDArray[Any]:
    """A npy file that must be one array of this type and length; nothing is ever unpickled.

    Raises:
        ValueError: it is something else.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no array file ({error}): prepare the store again") from error
    if values.dtype != dtype or values.shape != (length,):
        raise ValueError(f"{path} does not hold {length:,} values: prepare the store again")
    return values


def load_offsets(folder: Path, shard: ShardEntry) -> NDArray[np.uint32]:
    """``[documents + 1]``: where the documents of a shard start in it, and its end.

    Raises:
        ValueError: the file is no such array, or they are out of order.
    """
    path = inside(folder, shard.offset_file.file)
    offsets = load_array(path, OFFSET_DTYPE, shard.documents + 1)
    if offsets[0] != 0 or offsets[-1] != shard.tokens or (offsets[1:] <= offsets[:-1]).any():
        raise ValueError(f"{path} has document borders out of order: prepare the store again")
    return offsets


def load_documents(folder: Path, shard: ShardEntry) -> NDArray[Any]:
    """``[documents]`` of ``DOCUMENT_DTYPE``: hash and source of each document of a shard.

    Raises:
        ValueError: the file is no such array.
    """
    path = inside(folder, shard.document_file.file)
    return load_array(path, DOCUMENT_DTYPE, shard.documents)
