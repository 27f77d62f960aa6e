"""What `lmtrain eval` asks of a checkpoint."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from lmtrain.ops.config import OpsConfig
from lmtrain.parallel.config import ParallelConfig
from lmtrain.settings.checks import positive
from lmtrain.settings.engine import Device, EngineConfig, Precision


@dataclass(kw_only=True)
class EvalConfig:
    """Scores of a checkpoint: on synthetic tasks, or by position and length on held-back text."""

    checkpoint: str | None = None
    """A run folder (its latest checkpoint) or one checkpoint folder."""
    task: str | None = None
    """A synthetic task, as data.task.name; null takes that of the run, or its text."""
    lengths: list[int] = field(default_factory=list[int])
    """Tokens of a row, powers of two, as many as you like beyond what was trained on; empty takes
    those of the run."""
    rows: int = 256
    """Rows of each length of a task; they come after those that the run trained on."""
    tokens: int = 262_144
    """About how many targets of text, spread over the lengths."""
    row: int = 16_384
    """Tokens computed at once by a process, or together by those that share a row; longer rows are
    computed whole."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Under torchrun, parallel.sequence processes share every row."""
    precision: Precision = Precision.fp32
    """Dtype of the activations."""
    device: Device = Device.auto
    """Where to compute."""
    ops: OpsConfig = field(default_factory=OpsConfig)
    """What computes."""
    out: str | None = None
    """A JSON file for the scores; null is scores.json in the checkpoint's run folder."""

    @property
    def engine(self) -> EngineConfig:
        """Who holds the model: one process, or FSDP over all of them."""
        return EngineConfig(precision=self.precision, device=self.device)

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        missing = "checkpoint is not set: say checkpoint=runs/default, or another run folder"
        shape = f"lengths={self.lengths} must be powers of two: [1024, 2048, 4096] for one"
        world = int(os.environ.get("WORLD_SIZE", "1"))
        return [
            *([missing] if self.checkpoint is None else []),
            *([shape] if any(n < 1 or n & (n - 1) for n in self.lengths) else []),
            *positive({"rows": self.rows, "tokens": self.tokens, "row": self.row}),
            *self.parallel.check(world),
            *self.engine.check(),
            *self.ops.check(self.engine.capability()),
        ]
