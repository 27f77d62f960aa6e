"""What `lmtrain eval` asks of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lmtrain.ops.config import OpsConfig
from lmtrain.parallel.config import ParallelConfig
from lmtrain.settings.checks import called
from lmtrain.settings.engine import Device, EngineConfig, Precision
from lmtrain.settings.harness import HarnessSection
from lmtrain.settings.scores import Asked, ScoreKind


@dataclass(kw_only=True)
class EvalConfig(Asked):
    """Scores of a checkpoint: on synthetic tasks, or by position and length on held-back text."""

    checkpoint: str | None = None
    """A run folder (its latest checkpoint) or one checkpoint folder."""
    what: list[ScoreKind] = field(default_factory=list[ScoreKind])
    """task: exact matches; text: loss by length and position; states: how large recurrent states
    are along a row; context: loss by how many tokens are seen. Empty takes task or text, whichever
    the run trained on."""
    task: str | None = None
    """A synthetic task, as data.task.name; null takes that of the run, or its text."""
    harness: HarnessSection = field(default_factory=HarnessSection)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Under torchrun, parallel.sequence processes share every row."""
    precision: Precision = Precision.fp32
    """Dtype of the activations."""
    device: Device = Device.auto
    """Where to compute."""
    ops: OpsConfig = field(default_factory=OpsConfig)
    """What computes."""
    out: str | None = None
    """A JSON file for the scores; null is scores.json in the checkpoint's run folder, and
    FOLDER.scores.json beside a folder of no run."""

    @property
    def engine(self) -> EngineConfig:
        """Who holds the model: one process, or FSDP over all of them."""
        return EngineConfig(precision=self.precision, device=self.device)

    def check(self, world_size: int) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        missing = "checkpoint is not set: say checkpoint=runs/default, or another run folder"
        nowhere = f"out={self.out} is in a folder that does not exist: make it first"
        return [
            *([missing] if self.checkpoint is None else []),
            *self.check_sizes(),
            *self.harness.check(),
            *([nowhere] if self.out and not Path(self.out).absolute().parent.is_dir() else []),
            *self.parallel.check(world_size),
            *called(self.engine.check(), "engine.", ""),
            *self.ops.check(self.engine.capability()),
        ]
