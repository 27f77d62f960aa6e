"""The embedded corpus: the source code of the running interpreter's own standard library."""

from __future__ import annotations

import hashlib
import os
import platform
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from lmtrain.data.encoding import batched
from lmtrain.data.manifest import InputEntry
from lmtrain.data.progress import progress
from lmtrain.data.tokenize import end_of_text, sample, train_bpe
from lmtrain.data.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

TRAINING_SHARE = 0.25
"""Share of the documents that the tokenizer is trained on: enough, and four times faster."""

SKIPPED_FOLDERS = {"__pycache__", "dist-packages", "site-packages"}


def stdlib_files() -> list[Path]:
    """Its ``.py`` files, in an order that does not depend on the file system."""
    found: list[str] = []
    for folder, subfolders, names in os.walk(sysconfig.get_path("stdlib")):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS]
        found += [os.path.join(folder, name) for name in names if name.endswith(".py")]  # noqa: PTH118
    return [Path(name) for name in sorted(found)]


def stdlib_name() -> str:
    """A name that changes with the Python version, and with the names and sizes of the files."""
    root = Path(sysconfig.get_path("stdlib"))
    digest = hashlib.sha256()
    for path in stdlib_files():
        digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
    return f"stdlib-{platform.python_version()}-{digest.hexdigest()[:8]}"


def stdlib_texts() -> Iterator[str]:
    """The text of each file; the few that are not UTF-8 (tests of other encodings) are skipped."""
    for path in stdlib_files():
        try:
            yield path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def write_stdlib(folder: Path, *, vocab_size: int) -> None:
    """Train a tokenizer on part of it and write all of it as a token store."""
    tokenizer = train_bpe(sample(stdlib_texts(), TRAINING_SHARE), vocab_size=vocab_size)
    writer = Writer(
        out=folder,
        tokenizer=tokenizer,
        tokenizer_name=f"bpe:{vocab_size}",
        end_of_text=end_of_text(tokenizer),
    )
    entry = InputEntry.of("Python's standard library", stdlib_files())
    title = "tokenising the source of Python's standard library, once"
    with writer, progress(title, unit="bytes", total=entry.bytes) as advance:
        for texts in batched(stdlib_texts()):
            writer.add(texts)
            advance(sum(len(text.encode()) for text in texts))
        writer.finish([entry])
