"""What a preparation is of: units that are finished serve no other."""

from __future__ import annotations

import hashlib
import json
import shutil
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any, Self

from lmtrain.data import units
from lmtrain.data.manifest import InputEntry
from lmtrain.data.tokenize import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tokenizers import Tokenizer

    from lmtrain.data.prepare_config import PrepareConfig
    from lmtrain.data.units import Input

KEYS = ("tokenizer", "tokenizer_revision", "end_of_text", "begin_of_text", "field", "max_documents")
"""Keys of the configuration that decide what is in a finished unit."""

CHECKSUM = "tokenizer.json"
"""The key of the tokenizer's own checksum."""


@dataclass(frozen=True)
class Identity:
    """Input and configuration of a preparation, as JSON keeps them."""

    keys: dict[str, Any]

    @classmethod
    def of(cls, config: PrepareConfig, inputs: Sequence[Input]) -> Self:
        """Of this configuration and what it names."""
        keys: dict[str, Any] = {key: getattr(config, key) for key in KEYS}
        return cls({"input": input_digest(inputs), **keys, "unit size": units.UNIT_BYTES})

    def trained(self, folder: Path) -> Tokenizer | None:
        """The tokenizer that was trained for the same input, if its units are in the folder."""
        if not self.keys["tokenizer"].startswith("bpe:"):
            return None
        path = folder / "tokenizer.json"
        begun = (folder / "identity.json").is_file()
        same = begun and not self._other(folder, _sha256(path.read_bytes()))
        return load_tokenizer(path) if same else None

    def begin(self, folder: Path, tokenizer: str) -> None:
        """Make the folder of units, or find it with the same identity.

        Raises:
            ValueError: it is of another input, tokenizer or configuration.
        """
        checksum = _sha256(tokenizer.encode())
        if not (folder / "identity.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
            draft = folder / "identity.draft"
            identity = {**self.keys, CHECKSUM: checksum}
            draft.write_text(json.dumps(identity, indent=1), encoding="utf-8")
            draft.replace(folder / "identity.json")
        elif other := self._other(folder, checksum):
            raise ValueError(
                f"{folder} holds an unfinished preparation with another {', '.join(other)}: delete "
                "it to begin anew, or go on with the command that began it"
            )

    def _other(self, folder: Path, checksum: str) -> list[str]:
        """In what the units of the folder differ."""
        before = json.loads((folder / "identity.json").read_text(encoding="utf-8"))
        other = [key for key, value in self.keys.items() if before.get(key) != value]
        return other or [CHECKSUM] * (before.get(CHECKSUM) != checksum)

    def check_unchanged(self, inputs: Sequence[Input]) -> None:
        """See that the input is still what it was.

        Raises:
            ValueError: a file changed meanwhile.
        """
        if input_digest(inputs) != self.keys["input"]:
            raise ValueError("the input changed while it was read: prepare it again")


def input_digest(inputs: Sequence[Input]) -> str:
    """A hash over what can be seen of the input without reading it."""
    digest = hashlib.sha256()
    for entry in inputs:
        digest.update(f"{entry.name}\0{entry.kind}\0{entry.shards}\n".encode())
        for file in entry.files:
            state = file.stat()
            digest.update(f"{file}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def input_entries(inputs: Sequence[Input]) -> Callable[[], list[InputEntry]]:
    """What the manifest says of the input: it is read in the background, and waited for here."""
    future: Future[list[InputEntry]] = Future()

    def run() -> None:
        try:
            future.set_result([InputEntry.of(entry.name, entry.files) for entry in inputs])
        except OSError as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future.result


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
