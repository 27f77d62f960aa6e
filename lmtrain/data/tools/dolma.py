"""Token files of dolma and OLMo: ``NAME.npy`` without a header, beside ``NAME.csv.gz``.

Each row of the table is ``start,end,id,src,loc`` of a document, in tokens; without the table
nobody knows where documents are, and ids do not tell.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from array import array
from typing import TYPE_CHECKING

import numpy as np

from lmtrain.data.tools.foreign import TokenFile, file_size, infer_dtype, map_tokens

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NPY_MAGIC = b"\x93NUMPY"


def read_dolma(path: Path) -> TokenFile:
    """The documents of ``NAME.npy``.

    Raises:
        ValueError: a file is missing or damaged, or the table does not cover the tokens.
    """
    file_size(path)
    table = path.with_name(path.name.removesuffix(".npy") + ".csv.gz")
    if not table.is_file():
        raise ValueError(
            f"{table} is missing, so nobody knows where the documents of {path.name} are: put it "
            "beside the tokens, or tokenise the texts with lmtrain prepare"
        )
    with path.open("rb") as file:
        if file.read(len(NPY_MAGIC)) == NPY_MAGIC:
            raise ValueError(
                f"{path} is an array with a header, and dolma writes none: give dolma's own files"
            )
    ends = _read_table(table)
    tokens = int(ends[-1]) if len(ends) else 0
    dtype = infer_dtype(path, tokens)
    return TokenFile(paths=(path, table), tokens=map_tokens(path, dtype, tokens), ends=ends)


def _read_table(path: Path) -> NDArray[np.int64]:
    ends, last, line = array("q"), 0, 0
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            for line, row in enumerate(csv.reader(file), start=1):  # noqa: B007  (told below)
                start, end = int(row[0]), int(row[1])
                if start != last or end < start:
                    raise ValueError(f"document {start}:{end} does not follow {last}")
                ends.append(end)
                last = end
    except (ValueError, IndexError, OverflowError, EOFError, OSError, csv.Error, zlib.error) as e:
        raise ValueError(
            f"{path}:{line} cannot be read ({e}): copy it again, rows are start,end,id,src,loc "
            "without gaps"
        ) from e
    return np.asarray(ends, np.int64)
