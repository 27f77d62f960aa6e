"""What a run had spent after each of its steps: tokens, FLOPs, hours."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lmtrain.models.accounting import ModelCost
    from lmtrain.report.read import Run

SECONDS = 3600
"""Of an hour."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What was spent, by step; NaN from where on it is not known."""

    steps: list[int]
    tokens: list[float]
    """Targets learned."""
    flops: list[float]
    """Of forward and backward passes, as `lmtrain.models.accounting` counts them."""
    hours: list[float]
    """Of training steps; validations, checkpoints and restarts are not in them."""

    @classmethod
    def of(cls, run: Run, cost: ModelCost | None) -> Progress:
        """The progress of a run whose model costs ``cost``; None where that is not known."""
        size = run.config.get("train.tokens_per_step")
        tokens = float(size) if isinstance(size, int) else nan
        lengths = run.column("length")
        per_token = {length: _flops(cost, length) for length in set(lengths)}
        flops = [per_token[length] * tokens for length in lengths]
        speeds = run.column("tokens_per_second")
        hours = [tokens / speed / SECONDS if speed > 0 else nan for speed in speeds]
        return cls(
            steps=[record["step"] for record in run.steps],
            tokens=run.column("tokens"),
            flops=list(accumulate(flops)),
            hours=list(accumulate(hours)),
        )

    def at(self, steps: list[int], of: str) -> list[float]:
        """What was spent of ``tokens``, ``flops`` or ``hours`` after some steps; else NaN."""
        spent = dict(zip(self.steps, getattr(self, of), strict=True))
        return [0.0 if step == 0 else spent.get(step, nan) for step in steps]

    def until(self, run: Run, loss: float, of: str) -> float | None:
        """What was spent until the validation loss first was at or below ``loss``; None: never."""
        losses = run.column("val_loss", run.validations)
        reached = [
            record["step"]
            for record, found in zip(run.validations, losses, strict=True)
            if isfinite(found) and found <= loss
        ]
        spent = self.at([min(reached)], of)[0] if reached else nan
        return spent if isfinite(spent) else None


def cost_of(run: Run) -> ModelCost | None:
    """The cost of a run's model; None where its configuration is not one of this version."""
    from lmtrain.models.accounting import ModelCost  # which needs torch
    from lmtrain.models.config import ModelConfig

    section = _nested({key: value for key, value in run.config.items() if key.startswith("model.")})
    try:
        model = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), section))
        assert isinstance(model, ModelConfig)
        return None if model.vocab_size is None or model.check() else ModelCost.of(model)
    except (ValueError, TypeError, OmegaConfBaseException):
        return None


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A section as it was before its keys were dotted."""
    section: dict[str, Any] = {}
    for key, value in flat.items():
        *outer, name = key.split(".")[1:]
        place = section
        for part in outer:
            place = place.setdefault(part, {})
        place[name] = value
    return section


def _flops(cost: ModelCost | None, length: float) -> float:
    """Of a token of a piece of this length; NaN where it is not known."""
    if cost is None or not isfinite(length) or length < 1:
        return nan
    return cost.training_flops_per_token([int(length)])
