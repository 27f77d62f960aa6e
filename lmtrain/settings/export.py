"""Checkpoints to folders of Hugging Face transformers, and back."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


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
    """fp32 or bf16, of matrices; norms, decays and biases stay fp32."""
    shard_size: str = "5GB"
    """Largest file, as a number of KB, MB or GB of a thousand each."""
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
        found = re.fullmatch(r"([0-9]+)\s*(KB|MB|GB)", self.shard_size.upper())
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
class DeltaShape:
    """Gated DeltaNet in the place of attention; null is the attention's own heads and width."""

    key_heads: int | None = None
    """Query and key heads; null is the attention's heads, whose keys are repeated for them."""
    value_heads: int | None = None
    """Value heads; null is the attention's heads, whose values are repeated for them."""
    key_dim: int | None = None
    """Width of a key head; another than the attention's draws the rows of q and k."""
    value_dim: int | None = None
    """Width of a value head; another than the attention's draws the rows of v and the output."""
    conv_width: int | None = None
    """Taps of the short convolution; null is 4."""
    beta_scale: float | None = None
    """1, or 2 for negative eigenvalues; null is 1."""


@dataclass(kw_only=True)
class Mamba2Shape:
    """Mamba-2 in the place of attention; null is the attention's own heads and width."""

    expand: int | None = None
    """Inner width over d_model; null is what the attention's heads come to."""
    head_dim: int | None = None
    """Width of a head; another than the attention's draws the rows of x and the output."""
    state_dim: int | None = None
    """Key width of the state; another than the attention's draws the rows of B and C."""
    groups: int | None = None
    """Groups of heads that share one B and C; null is one a head."""
    conv_width: int | None = None
    """Taps of the short convolution; null is 4."""


@dataclass(kw_only=True)
class ImportConfig:
    """A folder of transformers as a checkpoint to train on from."""

    folder: str | None = None
    """config.json, safetensors and tokenizer.json of a model; nothing else of it is read."""
    out: str | None = None
    """The checkpoint folder to write; it must not exist or be empty."""
    pattern: str | None = None
    """Letters of a hybrid, tiled over the blocks: GGGA keeps every fourth attention and makes G of
    the others, from their projections; null keeps all as it is."""
    gated_deltanet: DeltaShape = field(default_factory=DeltaShape)
    mamba2: Mamba2Shape = field(default_factory=Mamba2Shape)
    window: int | None = None
    """Tokens that a new W sees; null is 256."""
    seed: int = 0
    """Decides what is drawn in new mixers."""

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        problems = [
            f"{name} is not set: say {name}=FOLDER"
            for name, value in {"folder": self.folder, "out": self.out}.items()
            if value is None
        ]
        if self.pattern is None:
            problems += [
                f"{key}={value} shapes new mixers, and pattern is not set: say pattern=GGGA, or "
                "leave it out"
                for key, value in self.shapes().items()
            ]
        return problems

    def shapes(self) -> dict[str, int | float]:
        """What is told of the shapes of new mixers, by key."""
        told = {
            "window": self.window,
            **{
                f"gated_deltanet.{name}": value for name, value in vars(self.gated_deltanet).items()
            },
            **{f"mamba2.{name}": value for name, value in vars(self.mamba2).items()},
        }
        return {key: value for key, value in told.items() if value is not None}
