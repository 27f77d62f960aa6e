"""What a step minimises: the loss of the text, or what a teacher asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from lmtrain.models.accounting import ModelCost

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.batch import Batch
    from lmtrain.config import RunConfig
    from lmtrain.models.decoder import Decoder
    from lmtrain.train.engines import Engine
    from lmtrain.train.teacher import Teacher


class Losses(NamedTuple):
    """Of a part of a global batch; sums over its targets."""

    total: Tensor
    """What gradients are of."""
    parts: Tensor
    """What is told, in the order of `Objective.parts`: detached, fp64."""


class Objective(Protocol):
    """Computes the losses of every step, whose number from 0 is its ``index``."""

    def __call__(self, index: int, model: Decoder, batch: Batch) -> Losses:
        """The losses of a part of a global batch; every process calls it."""
        ...

    def parts(self, index: int) -> tuple[str, ...]:
        """Names of what is told of a step; the first is its loss."""
        ...

    def stage(self, index: int) -> str:
        """The name of what is minimised then; empty where there is only one."""
        ...

    def begins(self, index: int) -> bool:
        """Whether the losses of this step are of another kind than those before."""
        ...

    def flops_per_token(self, index: int, length: int) -> float:
        """FLOPs of all models in a step over documents of one length."""
        ...


class TextLoss:
    """The cross-entropy of the text, with z-loss: all steps of a run without a teacher."""

    def __init__(self, config: RunConfig, engine: Engine) -> None:
        self.engine, self.z_loss = engine, config.train.z_loss
        self.cost = ModelCost.of(config.model)

    def __call__(self, index: int, model: Decoder, batch: Batch) -> Losses:  # noqa: ARG002
        """The sum of nats over the targets."""
        losses = self.engine.forward(model, batch, z_loss=self.z_loss)
        return Losses(losses.total, losses.nll.sum(dtype=torch.float64)[None])

    def parts(self, index: int) -> tuple[str, ...]:  # noqa: ARG002
        """The loss alone."""
        return ("nll",)

    def stage(self, index: int) -> str:  # noqa: ARG002
        """None to tell."""
        return ""

    def begins(self, index: int) -> bool:  # noqa: ARG002
        """Never: there is only one."""
        return False

    def flops_per_token(self, index: int, length: int) -> float:  # noqa: ARG002
        """Forward and backward."""
        return self.cost.training_flops_per_token([length])


def open_objective(config: RunConfig, engine: Engine, teacher: Teacher | None = None) -> Objective:
    """What the steps of a run minimise; every process calls it.

    Args:
        config: of the run.
        engine: over whose processes a teacher is spread.
        teacher: the checkpoint that it learns from, if there is one.
    """
    text = TextLoss(config, engine)
    if teacher is None:
        return text
    from lmtrain.train.distill import Distillation
    from lmtrain.train.teacher import open_teacher

    return Distillation(config, engine, open_teacher(teacher, config, engine), text)
