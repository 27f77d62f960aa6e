"""datatrove's token files: ``NAME.ds``, ``NAME.ds.index`` and, mostly, ``NAME.ds.metadata``.

The index holds the end of each document in tokens, uint64; the metadata is text: ``tokenizer|bytes
of a token``, the number of tokens, and that number again for people.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lmtrain.data.tools.foreign import TokenFile, check_ends, file_size, infer_dtype, map_tokens

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def read_datatrove(path: Path) -> TokenFile:
    """The documents of ``NAME.ds``.

    Raises:
        ValueError: a file is missing, or they contradict each other.
    """
    index = path.with_name(path.name + ".index")
    metadata = path.with_name(path.name + ".metadata")
    loss = path.with_name(path.name + ".loss")
    if loss.exists():
        raise ValueError(f"{loss} leaves tokens out of the loss, which a store cannot: delete it")
    ends = _read_index(index)
    tokens = int(ends[-1]) if len(ends) else 0
    dtype = infer_dtype(path, tokens)
    paths = [path, index]
    if metadata.exists():
        _check_metadata(metadata, tokens, dtype.itemsize)
        paths.append(metadata)
    return TokenFile(paths=paths, tokens=map_tokens(path, dtype, tokens), ends=ends)


def _read_index(path: Path) -> NDArray[np.int64]:
    size = file_size(path)
    if size % 8:
        raise ValueError(f"{path} has {size:,} bytes, which is not 8 a document: copy it again")
    return check_ends(path, np.fromfile(path, "<i8"))


def _check_metadata(path: Path, tokens: int, itemsize: int) -> None:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    name, bar, size = lines[0].rpartition("|") if lines else ("", "", "")
    told = lines[1].strip() if len(lines) > 1 else ""
    # Files of the first versions have two-byte tokens and do not say so.
    if bar and size.strip().isdecimal() and int(size) != itemsize:
        raise ValueError(
            f"{path} says {size.strip()} bytes a token for {name}, and the file has {itemsize}: "
            "copy the files again"
        )
    if told.isdecimal() and int(told) != tokens:
        raise ValueError(
            f"{path} says {int(told):,} tokens, and the index {tokens:,}: copy the files again"
        )
