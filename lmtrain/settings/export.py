"""Checkpoints to folders of Hugging Face transformers, and back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class Home(StrEnum):
    """What kind of folder an export makes."""

    auto = "auto"
    native = "native"
    custom = "custom"


class StoredDtype(StrEnum):
    """How matrices are stored."""

    fp32 = "fp32"
    bf16 = "bf16"


@dataclass(kw_only=True)
class ExportConfig:
    """A checkpoint as a folder that transformers loads."""

    checkpoint: str | None = None
    """A run folder (its latest checkpoint) or one checkpoint folder."""
    out: str | None = None
    """The folder to write; it must not exist or be empty."""
    target: Home = Home.auto
    """native: a model that transformers and servers know, or say what keeps the stack out; custom:
    our own code in the folder, for any stack; auto: native where there is one."""
    dtype: StoredDtype = StoredDtype.fp32
    """Of matrices; norms, decays and biases stay fp32."""
    shard_size: str = "5GB"
    """Largest file, in KB, MB or GB of a thousand each."""
    license: str | None = None
    """For the model card, as the hub names it: apache-2.0."""
    verify: bool = True
    """Load the folder in a fresh process without lmtrain and compare logits; needs transformers and
    the memory of the whole model in fp32."""
    dry: bool = False
    """Only say the target, what keeps the stack out of the others, and the files."""

    @property
    def shard_bytes(self) -> int:
        """Bytes of the largest file.

        Raises:
            ValueError: it is not a size.
        """
        found = re.fullmatch(r"([0-9]+)\s*(KB|MB|GB|)", self.shard_size.upper())
        if found is None or int(found[1]) < 1:
            raise ValueError(f"shard_size={self.shard_size} is not a size: say 5GB or 500MB")
        return int(found[1]) * UNITS[found[2]]

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        problems: list[str] = []
        if self.checkpoint is None:
            problems.append("checkpoint is not set: say checkpoint=runs/default, or another run")
        if self.out is None and not self.dry:
            problems.append("out is not set: say out=FOLDER")
        try:
            _ = self.shard_bytes
        except ValueError as error:
            problems.append(str(error))
        return problems


@dataclass(kw_only=True)
class ImportConfig:
    """A folder of transformers as a checkpoint to train on from."""

    folder: str | None = None
    """config.json, safetensors and tokenizer.json of a model; nothing else of it is read."""
    out: str | None = None
    """The checkpoint folder to write; it must not exist or be empty."""

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        return [
            f"{name} is not set: say {name}=FOLDER"
            for name, value in {"folder": self.folder, "out": self.out}.items()
            if value is None
        ]
