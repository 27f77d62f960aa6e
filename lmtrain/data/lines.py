"""Lines and paragraphs of a range of bytes: ranges side by side give each of them once.

A line belongs to the range in which it begins. A paragraph belongs to the range in which the blank
line before it begins, the first of a file to the first range. So a reader goes past the end of its
range to finish what it began, and its neighbour skips exactly that.
"""

from __future__ import annotations

import gzip
import io
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import IO

SKIP_BYTES = 1 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
COMPRESSED = (".gz", ".zst")
"""Suffixes of files that cannot be entered in the middle."""


@dataclass
class Lines:
    """Lines of a file that begin in ``[start, stop)``, as bytes with their end.

    ``stop`` None is the end of the file. While one iterates, ``count`` is how many began in the
    range so far, and ``position`` how many bytes of the file were read for that.
    """

    path: Path
    start: int = 0
    stop: int | None = None
    count: int = 0
    position: int = 0

    def __iter__(self) -> Iterator[bytes]:
        return (line for line, _ in self.numbered())

    def numbered(self) -> Iterator[tuple[bytes, int]]:
        """Each line with its number, from 1 for the first of the range."""
        for line, own in self._through(self.stop):
            if not own:
                return
            yield line, self.count

    def paragraphs(self) -> Iterator[tuple[list[bytes], int]]:
        """The lines of each paragraph of the range, and the number of its first line."""
        paragraph: list[bytes] = []
        inside, first = self.start == 0, 1
        for number, (line, own) in enumerate(self._through(None), 1):
            blank = _is_blank(line)
            if not own and (blank or not inside):
                break  # the next range begins with this blank line, or with a later one
            if blank:
                if paragraph:
                    yield paragraph, first
                paragraph, inside = [], True
            elif inside:
                first = first if paragraph else number
                paragraph.append(line)
        if paragraph:
            yield paragraph, first

    def _through(self, stop: int | None) -> Iterator[tuple[bytes, bool]]:
        """Lines from the first of the range on, and whether each begins in the range."""
        with opened(self.path) as (file, raw):
            here = first = _enter(file, self.start, self.stop)
            while here is not None and (stop is None or here < stop):
                line = file.readline()
                if not line:
                    return
                own = self.stop is None or here < self.stop
                self.count += own
                here += len(line)
                self.position = here - (first or 0) if raw is file else raw.tell()
                yield line.removeprefix(BYTE_ORDER_MARK) if here == len(line) else line, own


@contextmanager
def opened(path: Path) -> Generator[tuple[IO[bytes], IO[bytes]]]:
    """A file to read text from, and the file that its bytes come from: the same, or compressed."""
    with path.open("rb") as raw:
        match path.suffix:
            case ".gz":
                with gzip.GzipFile(fileobj=raw) as file:
                    yield cast("IO[bytes]", file), raw
            case ".zst":
                yield cast("IO[bytes]", io.BufferedReader(_unzstd(raw), SKIP_BYTES)), raw
            case _:
                yield raw, raw


def _enter(file: IO[bytes], start: int, stop: int | None) -> int | None:
    """Go to the first line that begins at ``start`` or later; None if none does before ``stop``."""
    if start == 0:
        return 0
    file.seek(start - 1)
    here = start - 1
    while part := file.readline(SKIP_BYTES):
        here += len(part)
        if part.endswith(b"\n"):
            return here
        if stop is not None and here >= stop:
            return None
    return None


def _unzstd(raw: IO[bytes]) -> Any:
    arrow: Any = import_module("pyarrow")  # it has no types
    return arrow.CompressedInputStream(raw, "zstd")


def _is_blank(line: bytes) -> bool:
    return not line.strip() or (not line.isascii() and not line.decode(errors="replace").strip())
