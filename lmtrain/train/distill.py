"""Learning from a teacher, in stages: outputs of mixers, then predictions, then the text alone.

| stage | steps | what learns | loss |
|---|---|---|---|
| ``layers`` | ``distill.layers_steps`` | mixers that the teacher does not have | squared error |
| ``logits`` | ``distill.logits_steps`` | everything | divergence from the teacher's predictions |
| ``text`` | the rest | everything | that of a run without a teacher |

In the first stage each new mixer reads what the teacher's mixer of that block reads, whatever the
blocks below have learned, and is measured against what that one gives: so all learn at once, from
one forward pass of the teacher. Stages of this kind are those of Bick et al. 2024 (arXiv
2408.10189) and Goldstein et al. 2025 (arXiv 2505.03005).
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lmtrain.batch import IGNORED
from lmtrain.models.accounting import ModelCost
from lmtrain.ops.divergence import Output, linear_divergence
from lmtrain.parallelize import reshard
from lmtrain.train.objective import Losses
from lmtrain.train.teacher import new_mixers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lmtrain.batch import Batch
    from lmtrain.config import RunConfig
    from lmtrain.models.decoder import Decoder
    from lmtrain.train.engines import Engine
    from lmtrain.train.objective import TextLoss

LAYERS, LOGITS, TEXT = "layers", "logits", "text"
PARTS = {LAYERS: ("mse",), LOGITS: ("kl", "nll"), TEXT: ("nll",)}
"""What is told of a stage; the first is its loss."""


class Seen(NamedTuple):
    """What a mixer of the teacher read and gave, ``[t, d]`` each."""

    read: Tensor
    gave: Tensor


class Distillation:
    """The objective of a run with a teacher.

    Args:
        config: of the run.
        engine: holds both models.
        teacher: with the weights that never change.
        text: the loss of the last stage.
    """

    def __init__(self, config: RunConfig, engine: Engine, teacher: Decoder, text: TextLoss) -> None:
        self.section, self.engine, self.teacher, self.text = config.distill, engine, teacher, text
        self.blocks = new_mixers(config.model, teacher.config)
        self.cost = ModelCost.of(teacher.config)

    def __call__(self, index: int, model: Decoder, batch: Batch) -> Losses:
        """The losses of the stage."""
        match self.stage(index):
            case "layers":
                seen = self._ask(batch, partial(watch, batch=batch, blocks=self.blocks))
                reshard(self.teacher)
                return self.engine.forward(
                    model, batch, lesson=partial(imitate, batch=batch, seen=seen)
                )
            case "logits":
                taught = self._ask(batch, partial(predict, batch=batch))
                lesson = partial(
                    follow, batch=batch, teacher=taught, temperature=self.section.temperature
                )
                losses = self.engine.forward(model, batch, lesson=lesson)
                reshard(self.teacher)  # until here its output layer was whole
                return losses
            case _:
                return self.text(index, model, batch)

    def parts(self, index: int) -> tuple[str, ...]:
        """By stage: the squared error; divergence and nats of the text; these alone."""
        return PARTS[self.stage(index)]

    def stage(self, index: int) -> str:
        """The stage of a step."""
        if index < self.section.layers_steps:
            return LAYERS
        return LOGITS if index < self.section.layers_steps + self.section.logits_steps else TEXT

    def begins(self, index: int) -> bool:
        """Whether it is the first step of a later stage."""
        return index > 0 and self.stage(index) != self.stage(index - 1)

    def flops_per_token(self, index: int, length: int) -> float:
        """Forward of the teacher, forward and backward of the model.

        In the first stage, where a part of either runs, both are counted as if they ran whole.
        """
        text = self.text.flops_per_token(index, length)
        return text + (self.stage(index) != TEXT) * self.cost.total.flops_per_token([length])

    @torch.no_grad()
    def _ask(self, batch: Batch, lesson: Any) -> Any:
        return self.engine.forward(self.teacher, batch, lesson=lesson)


def watch(teacher: Decoder, *, batch: Batch, blocks: list[int]) -> dict[int, Seen]:
    """What the teacher's mixers of some blocks read and give; later blocks do not run."""
    seen: dict[int, Seen] = {}

    def look(block: int, _: nn.Module, args: tuple[Any, ...], gave: Tensor) -> None:
        seen[block] = Seen(args[0], gave)

    with ExitStack() as held:
        for number in blocks:
            mixer = teacher.get_submodule(f"blocks.{number}.mixers.0")
            held.callback(mixer.register_forward_hook(partial(look, number)).remove)
        teacher.hidden(batch.tokens, batch.layout, blocks=blocks[-1] + 1)
    return seen


def imitate(model: Decoder, *, batch: Batch, seen: dict[int, Seen]) -> Losses:
    """Squared errors of mixers that read what the teacher's read: means over width and mixers."""
    kept = batch.targets != IGNORED
    total = torch.zeros((), device=batch.tokens.device)
    for number, (read, gave) in seen.items():
        ours = model.blocks[number].mix(read, batch.layout)  # type: ignore[operator]
        precise = torch.promote_types(ours.dtype, torch.float32)
        error = (ours.to(precise) - gave.to(precise)).square().mean(-1)
        total = total + (error * kept).sum() / len(seen)
    return Losses(total, total.detach().double()[None])


def predict(teacher: Decoder, *, batch: Batch) -> Output:
    """The teacher's output layer, of which its logits are made a slice at a time."""
    return Output(teacher.hidden(batch.tokens, batch.layout), teacher.output_weight)


def follow(model: Decoder, *, batch: Batch, teacher: Output, temperature: float) -> Losses:
    """The divergence of the predictions from those of the teacher."""
    ours = Output(model.hidden(batch.tokens, batch.layout), model.output_weight)
    found = linear_divergence(ours, teacher, batch.targets, temperature)
    told = torch.stack([x.sum(dtype=torch.float64) for x in (found.kl, found.nll)])
    return Losses(found.total, told)
