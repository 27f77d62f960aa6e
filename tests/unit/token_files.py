"""Token files as other toolkits write them, for the tests of import."""

from __future__ import annotations

import gzip
import struct
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from lmtrain.data.prepare_config import InputFormat, Mode, PrepareConfig
from lmtrain.data.store import Side, Store
from lmtrain.data.tools.megatron import MAGIC

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lmtrain.data.tools.foreign import TokenFile

END = 256
DOCUMENTS = [[104, 105, END], [97, END], [0xC3, 0xA9, 98], [END], [], [99, END, 100, END]]
STORED = [[104, 105, END], [97, END], [0xC3, 0xA9, 98, END], [99, END, 100, END]]
"""What becomes of them: an end appended, two empty ones left out."""


def megatron(
    folder: Path, documents: Sequence[Sequence[int]], *, code: int = 8, cut: int = 10**9
) -> Path:
    """Files as Megatron writes them, with documents cut into sequences of ``cut`` tokens."""
    dtype = {1: "u1", 4: "<i4", 5: "<i8", 6: "<f8", 8: "<u2"}[code]
    parts = [[d[i : i + cut] for i in range(0, max(len(d), 1), cut)] for d in documents]
    sizes = np.array([len(part) for some in parts for part in some], "<i4")
    pointers = (np.cumsum(sizes, dtype=np.int64) - sizes) * np.dtype(dtype).itemsize
    firsts = np.cumsum([0, *map(len, parts)])
    head = struct.pack("<9sQBQQ", MAGIC, 1, code, len(sizes), len(firsts))
    index = head + sizes.tobytes() + pointers.astype("<i8").tobytes()
    (folder / "all.idx").write_bytes(index + firsts.astype("<i8").tobytes())
    (folder / "all.bin").write_bytes(np.fromiter(chain(*documents), dtype).tobytes())
    return folder / "all"


def datatrove(folder: Path, documents: Sequence[Sequence[int]], dtype: str = "<u2") -> Path:
    path = folder / "all.ds"
    ends = np.cumsum([len(d) for d in documents])
    path.write_bytes(np.fromiter(chain(*documents), dtype).tobytes())
    (folder / "all.ds.index").write_bytes(ends.astype("<u8").tobytes())
    told = f"gpt2|{np.dtype(dtype).itemsize}\n{ends[-1]}\n1 kT"
    (folder / "all.ds.metadata").write_text(told)
    return path


def dolma(folder: Path, documents: Sequence[Sequence[int]], dtype: str = "<u2") -> Path:
    path = folder / "part-0-00000.npy"
    ends = np.cumsum([len(d) for d in documents]).tolist()
    path.write_bytes(np.fromiter(chain(*documents), dtype).tobytes())
    with gzip.open(folder / "part-0-00000.csv.gz", "wt") as file:
        for i, (end, document) in enumerate(zip(ends, documents, strict=True)):
            file.write(f'{end - len(document)},{end},"id, {i}",some/file.json.gz,{i}\n')
    return path


WRITERS: dict[str, Any] = {"megatron": megatron, "datatrove": datatrove, "dolma": dolma}


def import_config(path: Path, out: Path, kind: str, **keys: Any) -> PrepareConfig:
    return PrepareConfig(
        mode=Mode.import_,
        input=str(path),
        out=str(out),
        format=InputFormat(kind),
        **{"tokenizer": "bytes", **keys},
    )


def documents_of(store: Store) -> list[list[int]]:
    found = store.documents(Side.train)
    return [store.read(np.array([s]), int(n))[0].tolist() for s, n in zip(*found, strict=True)]


def split_of(file: TokenFile) -> list[list[int]]:
    return [part.tolist() for part in np.split(np.asarray(file.tokens), file.ends[:-1])]
