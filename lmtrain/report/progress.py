"""What a run had spent after each of its steps: tokens, FLOPs, hours."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmtrain.report.read import read

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
    def of(cls, run: Run, cost: ModelCost | None, teacher: ModelCost | None = None) -> Progress:
        """The progress of a run whose model costs ``cost``; None where that is not known.

        Args:
            run: as it was read.
            cost: of its model.
            teacher: cost of the one that it asks in its first stages.
        """
        sizes, lengths = _sizes(run), run.column("length")
        asks = [record.get("stage", "text") != "text" for record in run.steps]
        kinds = list(zip(lengths, asks, strict=True))
        per_token = {kind: _flops(kind[0], cost, teacher, asks=kind[1]) for kind in set(kinds)}
        speeds = run.column("tokens_per_second")
        flops = (per_token[kind] * size for kind, size in zip(kinds, sizes, strict=True))
        hours = (
            size / speed / SECONDS if speed > 0 else nan
            for size, speed in zip(sizes, speeds, strict=True)
        )
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


def teacher_cost_of(run: Run) -> ModelCost | None:
    """The cost of the model that taught a run; None where it is not there, or had none."""
    folder = run.config.get("distill.teacher")
    return cost_of(read(Path(folder))) if isinstance(folder, str) else None


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


def _sizes(run: Run) -> list[float]:
    """Tokens of each reported step: ``train.tokens_per_step`` may have changed on the way."""
    held = {0: 0.0} | dict(zip((r["step"] for r in run.steps), run.column("tokens"), strict=True))
    sizes = {
        step: (held[step] - held[before]) / (step - before)
        for before, step in pairwise(sorted(held))
    }
    return [sizes[record["step"]] for record in run.steps]


def _flops(
    length: float, cost: ModelCost | None, teacher: ModelCost | None, *, asks: bool
) -> float:
    """Of a token of a piece of this length; NaN where it is not known.

    A step that asks the teacher has its forward pass too.
    """
    if cost is None or (asks and teacher is None) or not isfinite(length) or length < 1:
        return nan
    asked = teacher.total.flops_per_token([int(length)]) if asks and teacher else 0.0
    return cost.training_flops_per_token([int(length)]) + asked
