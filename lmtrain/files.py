"""Folders with one owner, and files that are never seen half-written."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from time import monotonic, sleep
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_SECONDS, LOOK_SECONDS = 20.0, 0.2
"""How long processes that a launcher started again wait for those before them to let go of the
folder, perhaps on another host; and how often they try."""


@contextmanager
def claimed(folder: Path, taken: str) -> Iterator[None]:
    """Make ``run.dir`` and keep others out of it; the lock dies with the process.

    Args:
        folder: ``run.dir``.
        taken: by what, and what to do then.

    Raises:
        ValueError: it cannot be written, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        try:
            _lock(lock)
        except BlockingIOError as error:
            raise ValueError(f"run.dir={folder} is in use by {taken}") from error
        yield
    finally:
        os.close(lock)


def unwritable(folder: Path, error: OSError) -> ValueError:
    """What to raise where ``run.dir`` cannot be written."""
    return ValueError(f"run.dir={folder} cannot be written ({error}): choose another")


def write_whole(path: Path, text: str) -> None:
    """Write a file that is never seen half-written."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _lock(descriptor: int) -> None:
    """Lock at once; under an elastic launcher, as soon as the processes before are gone.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    end = monotonic() + (PATIENCE_SECONDS if "TORCHELASTIC_RUN_ID" in os.environ else 0)
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() >= end:
                raise
            sleep(LOOK_SECONDS)
