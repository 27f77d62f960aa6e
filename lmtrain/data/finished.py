"""Units that are finished: their tokens on disk, from which the store is put together.

They lie in ``.NAME.units`` beside the store, and are what a killed preparation goes on from. The
folder belongs to one input, tokenizer and configuration, written in ``identity.json``.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lmtrain.data.encoding import Encoded
from lmtrain.data.readers import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

UNIT_DTYPE = np.dtype([("hash", "<u8"), ("length", "<u8")])
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a finished unit holds.

    ``documents`` are those with tokens. ``problems`` come with the number of documents, blank ones
    included, that were read before each. ``lines`` are those that begin in the unit.
    """

    documents: int
    lines: int
    problems: tuple[tuple[int, Problem], ...]
    checksum: int

    @classmethod
    def read(cls, path: Path) -> Self:
        """From the file that says so."""
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        problems = tuple((before, Problem(**problem)) for before, problem in data.pop("problems"))
        return cls(**data, problems=problems)


@dataclass(frozen=True)
class UnitFolder:
    """The folder of finished units beside a store."""

    path: Path
    dtype: np.dtype[Any]

    def finished(self, number: int, *, trusted: bool = False) -> Finished | None:
        """The unit of this number if it is finished and, unless ``trusted``, undamaged."""
        tokens, documents, path = self.files(number)
        if not path.is_file():
            return None
        done = Finished.read(path)
        return done if trusted or _checksum(tokens, documents) == done.checksum else None

    def read(self, number: int) -> Encoded:
        """The documents of a finished unit, blank ones included; the tokens stay on disk."""
        tokens, documents, _ = self.files(number)
        table = np.fromfile(documents, UNIT_DTYPE)
        some = tokens.stat().st_size > 0  # nothing cannot be mapped
        return Encoded(
            np.memmap(tokens, self.dtype, mode="r") if some else np.empty(0, self.dtype),
            table["length"].astype(np.int64),
            table["hash"].astype(np.uint64),
        )

    def files(self, number: int) -> tuple[Path, Path, Path]:
        """Tokens, documents, and the description, which is written last."""
        tokens, documents, done = (
            self.path / f"{number:07d}.{suffix}" for suffix in ("tok", "doc", "json")
        )
        return tokens, documents, done

    def leave(self) -> None:
        """Remove the folder if there is nothing in it to go on from."""
        if not any(self.path.glob("0*.json")):
            self.remove()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


class UnitWriter:
    """A unit in the making; it appears in the folder when it is finished."""

    def __init__(self, folder: UnitFolder, number: int) -> None:
        self._files = folder.files(number)
        self._drafts = [path.with_name(f"{path.name}.{os.getpid()}") for path in self._files]
        self._documents: list[Encoded] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._tokens = self._stack.enter_context(self._drafts[0].open("wb"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for draft in self._drafts:
            draft.unlink(missing_ok=True)

    def add(self, documents: Encoded) -> None:
        """Append documents."""
        self._tokens.write(documents.tokens.tobytes())
        self._documents.append(documents._replace(tokens=documents.tokens[:0]))

    def add_parts(self, parts: Iterable[NDArray[Any]]) -> Iterator[int]:
        """Append tokens of a document that ``add`` ends; how many there are, part by part.

        If the parts raise, nothing is appended.
        """
        before = self._tokens.tell()
        try:
            for part in parts:
                self._tokens.write(part.tobytes())
                yield len(part)
        except ValueError:
            self._tokens.seek(before)
            self._tokens.truncate()
            raise

    def finish(self, lines: int, problems: Iterable[tuple[int, Problem]]) -> None:
        """Give it its name."""
        self._stack.close()
        tokens, documents, done = self._drafts
        table = np.empty(sum(len(part.lengths) for part in self._documents), UNIT_DTYPE)
        if self._documents:
            table["length"] = np.concatenate([part.lengths for part in self._documents])
            table["hash"] = np.concatenate([part.hashes for part in self._documents])
        table.tofile(documents)
        finished = Finished(
            documents=int((table["length"] > 0).sum()),
            lines=lines,
            problems=tuple(problems),
            checksum=_checksum(tokens, documents),
        )
        done.write_text(json.dumps(asdict(finished)), encoding="utf-8")
        for draft, path in zip(self._drafts, self._files, strict=True):
            draft.replace(path)


def _checksum(*paths: Path) -> int:
    value = 0
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                value = zlib.crc32(block, value)
    return value
