"""Text from a checkpoint: during a run's end, and by the verb."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmtrain.ops.config import OpsConfig
from lmtrain.settings.checks import called, positive, sampling
from lmtrain.settings.engine import Device, EngineConfig


@dataclass(kw_only=True)
class SamplesSection:
    """Texts written at the end of the training, into ``samples/``."""

    count: int = 2
    """How many; 0 writes none."""
    tokens: int = 120
    """New tokens of each."""
    prompt: str | None = None
    """Text to continue; null takes the openings of validation documents."""
    prompt_tokens: int = 24
    """Length of such an opening."""
    temperature: float = 0.8
    """Divides the logits; 0 always takes the likeliest token."""
    top_p: float = 0.95
    """Draw from the smallest set of tokens with this much probability."""

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        counts = {"samples.tokens": self.tokens, "samples.prompt_tokens": self.prompt_tokens}
        negative = f"samples.count={self.count} is negative: 0 writes none"
        return [
            *([negative] if self.count < 0 else []),
            *positive(counts),
            *sampling(self.temperature, self.top_p, prefix="samples."),
        ]


@dataclass(kw_only=True)
class GenerateConfig:
    """Text from a checkpoint."""

    checkpoint: str | None = None
    """A run folder (its latest checkpoint) or one checkpoint folder."""
    prompt: str | None = None
    """Text to continue; null is a line break, or the first token of a tokenizer without one."""
    tokens: int = 200
    """New tokens at most."""
    count: int = 1
    """How many texts."""
    temperature: float = 0.8
    """Divides the logits before drawing."""
    top_p: float = 0.95
    """Draw from the smallest set of tokens with this much probability."""
    greedy: bool = False
    """Always take the likeliest token."""
    seed: int = 0
    """Decides the draws."""
    device: Device = Device.auto
    """Where to compute."""
    ops: OpsConfig = field(default_factory=OpsConfig)
    """What computes."""

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        missing = "checkpoint is not set: say checkpoint=runs/default, or another run folder"
        silent = "prompt is empty, and documents have no opening token: give it a character"
        engine = EngineConfig(device=self.device)
        return [
            *([missing] if self.checkpoint is None else []),
            *([silent] if self.prompt == "" else []),
            *positive({"tokens": self.tokens, "count": self.count}),
            *sampling(self.temperature, self.top_p),
            *([] if 0 <= self.seed < 1 << 62 else [f"seed={self.seed}: use 0 to {(1 << 62) - 1}"]),
            *called(engine.check(), "engine.", ""),
            *self.ops.check(engine.capability()),
        ]
