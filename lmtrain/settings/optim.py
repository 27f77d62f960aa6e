"""The optimizer and its learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Schedule(StrEnum):
    """How the learning rate moves after the warm-up."""

    cosine = "cosine"
    wsd = "wsd"
    constant = "constant"


@dataclass(kw_only=True)
class OptimConfig:
    """AdamW and its learning rate."""

    lr: float = 1e-3
    """Learning rate at the end of the warm-up."""
    schedule: Schedule = Schedule.cosine
    """cosine: to the last step; wsd: constant, then linear over decay_fraction; constant."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    final_fraction: float = 0.1
    """Learning rate at the last step over lr (cosine and wsd)."""
    decay_fraction: float = 0.2
    """Share of the steps that wsd decays over."""
    beta1: float = 0.9
    """Decay of the mean of the gradients."""
    beta2: float = 0.95
    """Decay of the mean of their squares."""
    eps: float = 1e-8
    """Added to the root of the mean of squares."""
    weight_decay: float = 0.1
    """Decay of the matrices; vectors and embeddings do not decay."""
    clip: float | None = 1.0
    """Largest norm of the gradient; null never clips."""

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        shares = {"final_fraction": self.final_fraction, "decay_fraction": self.decay_fraction}
        betas = {"beta1": self.beta1, "beta2": self.beta2}
        positive = {"lr": self.lr, "eps": self.eps, "clip": self.clip}
        return [
            *(
                f"optim.{key}={value} must be positive"
                for key, value in positive.items()
                if value is not None and not value > 0
            ),
            *(
                f"optim.{key}={value} must lie in [0, 1]"
                for key, value in shares.items()
                if not 0 <= value <= 1
            ),
            *(
                f"optim.{key}={value} must lie in [0, 1)"
                for key, value in betas.items()
                if not 0 <= value < 1
            ),
            *(
                f"optim.{key}={value} must not be negative"
                for key, value in {
                    "weight_decay": self.weight_decay,
                    "warmup_steps": self.warmup_steps,
                }.items()
                if not value >= 0
            ),
        ]
