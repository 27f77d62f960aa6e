"""Token files of other toolkits: documents one after the other, and where each ends."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenFile:
    """Documents of one file, in order, without gaps.

    Its arrays may be maps of the file: nothing is read before it is used.
    """

    paths: Sequence[Path]
    """The file, and those that describe it."""
    tokens: NDArray[Any]
    """``[tokens]`` in the integers of the file."""
    ends: NDArray[np.int64]
    """``[documents]`` the position after each document."""

    def blocks(self, tokens: int) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Consecutive documents of about so many tokens together: tokens, and lengths."""
        first = start = 0
        while first < len(self.ends):
            last = int(np.searchsorted(self.ends, start + tokens, side="right"))
            last = min(max(last, first + 1), len(self.ends))
            end = int(self.ends[last - 1])
            lengths = np.diff(self.ends[first:last], prepend=start)
            yield np.asarray(self.tokens[start:end]), lengths
            first, start = last, end


def map_tokens(path: Path, dtype: np.dtype[Any], tokens: int) -> NDArray[Any]:
    """A map of a file that must hold exactly this many tokens.

    Raises:
        ValueError: it is missing, or holds more or fewer.
    """
    size = file_size(path)
    if size != tokens * dtype.itemsize:
        raise ValueError(
            f"{path} has {size:,} bytes, which is not {tokens:,} tokens of {dtype.itemsize} bytes "
            "as its index says: copy both files again"
        )
    return np.memmap(path, dtype, mode="r") if tokens else np.empty(0, dtype)


def infer_dtype(path: Path, tokens: int) -> np.dtype[Any]:
    """The unsigned integers of a file without a header, from the number of its tokens.

    Raises:
        ValueError: it is missing, or its size is neither 2 nor 4 bytes a token.
    """
    size = file_size(path)
    for name in ("<u2", "<u4"):
        if size == tokens * np.dtype(name).itemsize:
            return np.dtype(name)
    raise ValueError(
        f"{path} has {size:,} bytes, which is neither 2 nor 4 for each of the {tokens:,} tokens of "
        "its documents: copy both files again"
    )


def check_ends(path: Path, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same ends, if no document ends before it begins.

    Raises:
        ValueError: one does.
    """
    if len(ends) and (ends[0] < 0 or (ends[1:] < ends[:-1]).any()):
        raise ValueError(f"{path} has document borders out of order: copy the files again")
    return ends


def file_size(path: Path) -> int:
    """Bytes of a file that must be there.

    Raises:
        ValueError: it is missing.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: put it back beside the other files of its format")
    return path.stat().st_size


def unpack(form: str, data: bytes, path: Path) -> tuple[Any, ...]:
    """Numbers at the beginning of a file.

    Raises:
        ValueError: the file is shorter.
    """
    if len(data) < struct.calcsize(form):
        raise ValueError(f"{path} ends within its header: copy it again")
    return struct.unpack_from(form, data)
