"""A unit of the input becomes a finished unit: read, tokenise, write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lmtrain.data.encoding import BATCH_CHARACTERS, Encoded, Encoder, TextHash, is_blank, is_long
from lmtrain.data.finished import UnitFolder, UnitWriter
from lmtrain.data.hub import HubDataset
from lmtrain.data.longtext import UncuttableError, pieces
from lmtrain.data.readers import LongFile, Problem, Reader
from lmtrain.data.tokenize import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from lmtrain.data.units import Unit


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every process has to know; the tokenizer lies in the folder of units."""

    folder: str
    field: str
    end_of_text: int
    begin_of_text: int | None
    max_errors: int
    max_documents: int | None
    dataset: HubDataset | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was just done: ``bytes`` of the input and ``tokens`` since the last report.

    The last report of a unit is ``done``, or has an ``error``, or more ``problems`` than allowed.
    """

    unit: int
    bytes: int = 0
    tokens: int = 0
    done: bool = False
    error: str = ""
    problems: tuple[Problem, ...] = ()


class Builder:
    """Builds units, one after the other, in one process and on one core."""

    def __init__(self, job: Job) -> None:
        folder = Path(job.folder)
        tokenizer = load_tokenizer(folder / "tokenizer.json")
        self._job = job
        self._encoder = Encoder.of(tokenizer, job.end_of_text, job.begin_of_text)
        self._folder = UnitFolder(folder, self._encoder.dtype)

    def build(self, unit: Unit) -> Iterator[Report]:
        """Do it, and tell now and then."""
        reader = Reader(unit, self._job.field, self._job.dataset)
        position = 0
        try:
            with UnitWriter(self._folder, unit.number) as writer:
                work = _Work(reader, writer, self._encoder, self._job)
                for tokens in work.run():
                    here = min(reader.position, unit.bytes)
                    yield Report(unit=unit.number, bytes=here - position, tokens=tokens)
                    position = here
                if len(work.problems) > self._job.max_errors:
                    problems = tuple(problem for _, problem in work.problems)
                    yield Report(unit=unit.number, problems=problems)
                    return
                writer.finish(reader.lines, work.problems)
        except ValueError as error:
            yield Report(unit=unit.number, error=str(error))
        except OSError as error:
            told = f"{self._folder.path} cannot be written ({error}): make room, and go on"
            yield Report(unit=unit.number, error=told)
        else:
            yield Report(unit=unit.number, bytes=unit.bytes - position, done=True)


class _Work:
    """One unit on its way from a reader to a writer."""

    def __init__(self, reader: Reader, writer: UnitWriter, encoder: Encoder, job: Job) -> None:
        self.problems: list[tuple[int, Problem]] = []
        self._reader = reader
        self._writer = writer
        self._encoder = encoder
        self._job = job
        self._batch: list[str] = []
        self._documents = 0

    def run(self) -> Iterator[int]:
        """How many tokens were written, again and again; stops early if there are too many
        problems, or enough documents."""
        size = filled = 0
        for found in self._reader:
            match found:
                case Problem():
                    self.problems.append((self._documents, found))
                    if len(self.problems) > self._job.max_errors:
                        return
                    continue
                case str() if not is_long(found) or is_blank(found):
                    self._batch.append(found)
                    size += len(found)
                    filled += not is_blank(found)
                case _:
                    yield self._flush()
                    size, filled = 0, filled + 1
                    if not (yield from self._long(found)):
                        continue
            self._documents += 1
            if size >= BATCH_CHARACTERS:
                yield self._flush()
                size = 0
            if filled == self._job.max_documents:
                break
        yield self._flush()

    def _flush(self) -> int:
        encoded = self._encoder(self._batch)
        self._writer.add(encoded)
        self._batch = []
        return len(encoded.tokens)

    def _long(self, found: str | LongFile) -> Generator[int, None, bool]:
        """Write one long document; False if the tokenizer cannot."""
        text_hash = TextHash()
        text = text_hash.through(pieces(found) if isinstance(found, str) else found)
        length = 0
        try:
            for tokens in self._writer.add_parts(self._encoder.parts(text)):
                length += tokens
                yield tokens
        except UncuttableError as error:
            file = str(found.path) if isinstance(found, LongFile) else self._reader.file
            self.problems.append((self._documents, Problem(file, str(error))))
            return False
        lengths, hashes = np.array([length]), np.array([text_hash.value], np.uint64)
        self._writer.add(Encoded(np.empty(0, self._encoder.dtype), lengths, hashes))
        return True
