"""What one optimizer update gives, and the report that is made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from lmtrain.train.device import peak_flops, peak_memory
from lmtrain.train.report import StepReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lmtrain.batch import Batch
    from lmtrain.config import RunConfig
    from lmtrain.data.plan import Plan
    from lmtrain.models.decoder import Decoder
    from lmtrain.train.engines import Engine
    from lmtrain.train.objective import Objective


class Update(NamedTuple):
    """What one optimizer update gave, over all processes."""

    loss: float
    """Mean over the targets of the global batch."""
    lr: float
    grad_norm: float
    """Not a number for a batch that was left out."""
    forward_backward: float
    update: float
    """Seconds of the host; see `StepReport`."""
    sp_bytes: int
    """What ranks that share rows sent each other."""
    stopped: bool
    """Whether a process was asked to stop."""
    parts: dict[str, float]
    """What the objective computed, the mean over the targets by name; the first is ``loss``."""


def add_gradients(
    index: int,
    batches: Sequence[Batch],
    targets: int,
    model: Decoder,
    objective: Objective,
    engine: Engine,
) -> Tensor:
    """Forward and backward of every part of global batch ``index``, of which ``batches`` are ours.

    Returns:
        fp64 ``[parts]``, what the objective tells of our part: sums over its targets.
    """
    sums = torch.zeros(len(objective.parts(index)), dtype=torch.float64, device=engine.device)
    for batch in engine.parts(batches):
        losses = objective(index, model, batch)
        engine.backward(losses.total / targets)
        sums += losses.parts
    return sums


class Reporter:
    """Makes the reports of a run's steps."""

    def __init__(self, config: RunConfig, plan: Plan, engine: Engine, objective: Objective) -> None:
        self._tokens, self._plan, self._engine = config.train.tokens_per_step, plan, engine
        self._objective = objective
        self._peak = peak_flops(engine.device, config.engine.precision)

    def __call__(
        self, step: int, update: Update, *, seconds: float, data_wait: float
    ) -> StepReport:
        """The report of a step that took so many seconds, some of them waiting for data."""
        length, speed = self._plan.length(step - 1), self._tokens / seconds
        stage = self._objective.stage(step - 1)
        return StepReport(
            step=step,
            loss=update.loss,
            lr=update.lr,
            grad_norm=update.grad_norm,
            tokens=self._plan.tokens(step),
            length=length,
            tokens_per_second=speed,
            mfu=self._mfu(step - 1, length, speed),
            data_wait=data_wait,
            forward_backward=update.forward_backward,
            update=update.update,
            sp_bytes=update.sp_bytes,
            memory=peak_memory(self._engine.device),
            sources=self._plan.given(step),
            stage=stage,
            parts=update.parts if stage else {},
        )

    def _mfu(self, index: int, length: int, speed: float) -> float | None:
        """The share of the devices' peak that the FLOPs take; None for an unknown peak."""
        if self._peak is None:
            return None
        flops = self._objective.flops_per_token(index, length)
        return flops * speed / (self._peak * self._engine.world)
