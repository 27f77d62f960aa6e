"""The optimizer and its learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import gcd
from typing import TYPE_CHECKING

from lmtrain.models.pattern import parse, sections
from lmtrain.settings.checks import above_zero, not_negative, positive
from lmtrain.settings.engine import Precision

if TYPE_CHECKING:
    from lmtrain.models.config import ModelConfig


class Schedule(StrEnum):
    """How the learning rate moves after the warm-up."""

    cosine = "cosine"
    wsd = "wsd"
    constant = "constant"


class OptimKind(StrEnum):
    """What turns gradients into updates."""

    adamw = "adamw"
    muon = "muon"
    """For the projections inside blocks; AdamW for all else."""


class MuonScale(StrEnum):
    """What the learning rate of a matrix is multiplied by under Muon."""

    match_rms_adamw = "match_rms_adamw"
    """0.2 √max(rows, columns): updates as large as AdamW's, so that one learning rate suits both
    (Liu et al. 2025, arXiv 2502.16982)."""
    original = "original"
    """√max(1, rows / columns)."""


@dataclass(kw_only=True)
class OptimConfig:
    """The optimizer and its learning rate."""

    kind: OptimKind = OptimKind.adamw
    """adamw; or muon, for the projections inside blocks, with AdamW for embeddings, output head,
    convolutions and vectors. The keys below are of both, muon_* of Muon alone."""
    muon_momentum: float = 0.95
    """Decay of Muon's mean of the gradients, used as Nesterov's."""
    muon_precision: Precision = Precision.bf16
    """Dtype in which Muon makes matrices orthogonal. bf16 is fast on GPUs, and a difference of one
    rounding in a gradient moves an update by 1e-3; fp32 makes runs of any engine agree to 1e-5."""
    muon_scale: MuonScale = MuonScale.match_rms_adamw
    """match_rms_adamw multiplies the learning rate of a matrix by 0.2 √max(rows, columns), so that
    Muon takes the learning rates of AdamW; original by √max(1, rows / columns)."""
    lr: float = 1e-3
    """Learning rate at the end of the warm-up."""
    base_width: int | None = None
    """model.d_model of the model that lr was tuned on: at another width first values and learning
    rates follow maximal update parametrisation (muP, arXiv 2203.03466), so that the same lr suits.
    Heads and MLP grow with d_model, the width of a head does not. Null is the standard one."""
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
        betas = {"beta1": self.beta1, "beta2": self.beta2, "muon_momentum": self.muon_momentum}
        least = {"weight_decay": self.weight_decay, "warmup_steps": self.warmup_steps}
        return [
            *above_zero({"optim.lr": self.lr, "optim.eps": self.eps, "optim.clip": self.clip}),
            *not_negative({f"optim.{key}": value for key, value in least.items()}),
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
        ]

    def check_width(self, model: ModelConfig) -> list[str]:
        """What in a sound ``model`` cannot come from a model of ``base_width``."""
        base, d_model = self.base_width, model.d_model
        if base is None or base < 1:
            return positive({"optim.base_width": base})
        found: list[str] = []
        if model.tie_embeddings:
            found.append(
                f"optim.base_width={base} needs an output head that learns at a rate of its own: "
                "say model.tie_embeddings=false"
            )
        parts = sections(parse(model.pattern, model.n_layers))
        heads = {
            "attention": ("attention.heads", model.attention.heads),
            "sliding_window": ("sliding_window.heads", model.sliding_window.heads),
            "mamba2": ("mamba2.head_dim", model.mamba2.heads(d_model)),
            "gated_deltanet": ("gated_deltanet.value_heads", model.gated_deltanet.value_heads),
        }
        return found + [
            f"model.{key} makes {count} heads, which cannot have grown from "
            f"optim.base_width={base} to model.d_model={d_model} with heads as wide as before: "
            f"make it a multiple of {d_model // gcd(base, d_model)}, or say "
            "optim.base_width=null"
            for key, count in (heads[part] for part in sorted(parts))
            if count * base % d_model
        ]
