"""One writer at a time: a lock that dies with the process that holds it."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path
    from typing import IO

PATIENCE_SECONDS = 0.2


@contextmanager
def locked(folder: Path, *, wait: bool) -> Generator[None]:
    """Hold the right to write ``folder``, in a file beside it that names the owner.

    Raises:
        ValueError: another process holds it and ``wait`` is false.
    """
    path = folder.with_name(f".{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _acquire(path, wait=wait) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink()


def _acquire(path: Path, *, wait: bool) -> IO[str]:
    told = False
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(file)
            if not wait:
                raise ValueError(
                    f"{path.with_suffix('').name[1:]} is being written by {owner}: wait for it or "
                    "choose another folder"
                ) from None
            if not told:
                print(f"waiting for {owner}, which holds {path}", file=sys.stderr, flush=True)
            told = True
            time.sleep(PATIENCE_SECONDS)
            continue
        if _is_current(file, path):
            return file
        file.close()  # its owner removed it: there is, or will be, a new one


def _is_current(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _owner(file: IO[str]) -> str:
    with file:
        file.seek(0)
        return file.read() or "another process"
