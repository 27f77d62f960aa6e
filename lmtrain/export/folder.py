"""Folders that appear whole or not at all."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def partial(out: Path, *, key: str) -> Iterator[Path]:
    """``out.partial`` to write into, which becomes ``out`` unless something fails.

    Raises:
        ValueError: ``out`` is there and not an empty folder, or cannot be made.
    """
    if out.resolve() == Path.cwd():
        raise ValueError(f"{key}={out} is the folder that you are in: name one inside it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{key}={out} is not empty: choose another folder, or remove it")
    out = out.resolve()  # where a link leads, it appears
    folder = out.with_name(f"{out.name}.partial")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"{key}={out} cannot be written ({error}): choose another") from error
    try:
        yield folder
        if out.exists():
            out.rmdir()
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
