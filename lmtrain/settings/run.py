"""Sections of a training run: its folder, its length, its validation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lmtrain.settings.budget import STEPS
from lmtrain.settings.checks import not_negative, positive


@dataclass(kw_only=True)
class RunSection:
    """The run itself."""

    dir: str = "runs/default"
    """Run folder; a run continues when it holds a checkpoint."""
    seed: int = 0
    """Decides the initial weights and the order of the data."""
    weights: str | None = None
    """A run folder or a checkpoint whose weights a new run begins with, such as `lmtrain import`
    writes; null draws them."""

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        if not self.dir.strip():
            return ["run.dir is empty, which would be this folder: say run.dir=runs/NAME"]
        folder = Path(self.dir).absolute()
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not existing.is_dir():
            return [f"run.dir={self.dir} cannot be a folder, {existing} is a file: choose another"]
        if not os.access(existing, os.W_OK | os.X_OK):
            return [
                f"run.dir={self.dir} cannot be written, {existing} is read-only: choose another"
            ]
        if (folder / "sweep.yaml").exists():
            return [
                f"run.dir={self.dir} holds a sweep, and a run would lie among its points: choose "
                "another"
            ]
        return []


@dataclass(kw_only=True)
class TrainSection:
    """Length and size of the training."""

    steps: int = STEPS
    """Optimizer updates; a finished run continues when this grows. A budget decides it instead."""
    tokens_per_step: int = 4096
    """Tokens of a global batch, whatever their length."""
    accumulate: int = 1
    """Parts a global batch is cut into, computed one after the other."""
    z_loss: float = 0.0
    """Weight of the squared log-partition, which keeps logits small."""

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        counts = {"train.steps": self.steps, "train.accumulate": self.accumulate}
        return [*positive(counts), *not_negative({"train.z_loss": self.z_loss})]


@dataclass(kw_only=True)
class ValidationSection:
    """Loss on documents that are never trained on."""

    every: int | None = 100
    """Steps between validations; null validates at the end only."""
    tokens: int = 65_536
    """At most this many tokens, spread over the lengths."""

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        return positive({"validation.every": self.every, "validation.tokens": self.tokens})
