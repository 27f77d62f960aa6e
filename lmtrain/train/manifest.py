"""What a checkpoint holds: size and checksum of every file, so that damage is found before use.

The checksum (xxh3, 128 bits) finds what went wrong by accident. It is no signature: who can write
the files can write the manifest too, so nothing that is read here is ever executed.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = "manifest.json"
PIECE = 1 << 22
"""Bytes that are read at a time."""


@dataclass(frozen=True)
class Entry:
    """One file."""

    size: int
    """Bytes."""
    xxh3: str
    """Of its contents, as hexadecimal digits."""

    @classmethod
    def of(cls, path: Path) -> Entry:
        """Of a file as it lies there."""
        digest, buffer, size = xxhash.xxh3_128(), bytearray(PIECE), 0
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(memoryview(buffer)[:count])
                size += count
        return cls(size, digest.hexdigest())


@dataclass(frozen=True)
class Manifest:
    """Every file of a folder, by its path inside the folder, with slashes."""

    files: dict[str, Entry]

    @classmethod
    def of(cls, folder: Path, paths: Iterable[Path]) -> Manifest:
        """Of some files below ``folder``."""
        return cls({path.relative_to(folder).as_posix(): Entry.of(path) for path in sorted(paths)})

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """From a file that `write` wrote.

        Raises:
            ValueError: it is missing or damaged, or names a path that leaves the folder.
        """
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))["files"]
            files = {name: Entry(int(e["size"]), str(e["xxh3"])) for name, e in stored.items()}
        except FileNotFoundError as error:
            raise ValueError(f"{path} is missing") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        for name in files:
            inside = PurePosixPath(name)
            if inside.is_absolute() or ".." in inside.parts or inside.as_posix() != name:
                raise ValueError(f"{path} names {name}, which is no path inside its folder")
        return cls(files)

    def write(self, path: Path) -> None:
        """As JSON."""
        files = {name: asdict(entry) for name, entry in sorted(self.files.items())}
        path.write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")

    def check_sizes(self, folder: Path) -> None:
        """See that exactly these files are there, with their sizes; contents are not read.

        Raises:
            ValueError: names the first file that is missing, a link, of another size or unknown.
        """
        for name, entry in self.files.items():
            size = _size(folder / name)
            if size != entry.size:
                raise ValueError(f"{folder / name} has {size} bytes and had {entry.size}")
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_dir() or name in self.files or name == NAME):
                raise ValueError(f"{path} is not in {NAME}")

    def check_contents(self, folder: Path, names: Iterable[str]) -> dict[str, str]:
        """Which of the named files have other contents than they had, and what is wrong."""
        found: dict[str, str] = {}
        for name in names:
            try:
                same = Entry.of(folder / name) == self.files[name]
            except OSError as error:
                found[name] = f"{folder / name} cannot be read: {error}"
                continue
            if not same:
                found[name] = f"{folder / name} does not have the contents that were written"
        return found


def check(folder: Path) -> None:
    """Verify every file of a checkpoint.

    Raises:
        ValueError: names the first that is not what was written.
    """
    manifest = Manifest.read(folder / NAME)
    manifest.check_sizes(folder)
    for problem in manifest.check_contents(folder, manifest.files).values():
        raise ValueError(problem)


def _size(path: Path) -> int:
    """Bytes of a regular file that is no link.

    Raises:
        ValueError: it is something else, or nothing.
    """
    try:
        status = os.lstat(path)
    except OSError as error:
        raise ValueError(f"{path} is missing") from error
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a regular file")
    return status.st_size
