"""Learning from another model: a hybrid from the transformer that it was made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmtrain.settings.checks import above_zero
from lmtrain.settings.engine import EngineKind, Precision

if TYPE_CHECKING:
    from lmtrain.settings.engine import EngineConfig


@dataclass(kw_only=True)
class DistillSection:
    """A teacher for the first steps of a run; the steps after them train on the text alone.

    The first ``layers_steps`` teach each mixer that the teacher does not have: it reads what the
    teacher's mixer of that block reads, and learns to give what that one gives, by the mean squared
    error; nothing else learns. The next ``logits_steps`` teach the whole model to predict as the
    teacher does, by the divergence of the two predictions.
    """

    teacher: str | None = None
    """A run folder or a checkpoint of the same width, depth and vocabulary, such as a plain
    `lmtrain import` writes; it never changes. Null is no teacher."""
    layers_steps: int = 0
    """First steps, in which new mixers learn the outputs of the teacher's mixers."""
    logits_steps: int = 0
    """Steps after them, in which all parameters learn the teacher's predictions."""
    temperature: float = 1.0
    """What the logits of both are divided by before they are compared."""

    def check(self, *, weights: str | None, engine: EngineConfig, world: int) -> list[str]:
        """Every problem, each a sentence with key, value and remedy.

        Args:
            weights: ``run.weights``.
            engine: how the model is held.
            world: processes.
        """
        lengths = {"layers_steps": self.layers_steps, "logits_steps": self.logits_steps}
        found = [f"distill.{k}={n} must not be negative" for k, n in lengths.items() if n < 0]
        found += above_zero({"distill.temperature": self.temperature})
        if self.teacher is None:
            return [
                *found,
                *(
                    f"distill.{key}={value} needs a teacher: say distill.teacher=CHECKPOINT, or 0"
                    for key, value in lengths.items()
                    if value > 0
                ),
            ]
        if not any(lengths.values()):
            found.append(
                f"distill.teacher={self.teacher} teaches nothing: say distill.layers_steps=N, "
                "distill.logits_steps=N, or both"
            )
        if self.layers_steps > 0 and weights is None:
            found.append(
                f"distill.layers_steps={self.layers_steps} leaves all but new mixers as they are: "
                "say run.weights=CHECKPOINT, what `lmtrain import pattern=…` made of the teacher"
            )
        return [*found, *self._engine(engine, world)]

    def check_steps(self, steps: int, decided: str) -> list[str]:
        """What is more than the ``steps`` of the run, whose number is ``decided`` by a key."""
        if self.teacher is None or self.layers_steps + self.logits_steps <= steps:
            return []
        return [
            f"distill.layers_steps={self.layers_steps} and distill.logits_steps="
            f"{self.logits_steps} are more than {decided}: raise that, or lower them"
        ]

    def _engine(self, engine: EngineConfig, world: int) -> list[str]:
        """What engines do not do with a second model, or with half a gradient."""
        if world == 1:
            return []
        if engine.kind is EngineKind.deepspeed:
            return [
                f"distill.teacher={self.teacher} does not go with engine.kind=deepspeed, which "
                "holds one model: say engine.kind=fsdp or ddp"
            ]
        if self.layers_steps > 0 and engine.gather is Precision.bf16:
            return [
                f"distill.layers_steps={self.layers_steps} does not go with engine.gather=bf16, "
                "which gathers all projections of a block together: say engine.gather=fp32"
            ]
        return []
