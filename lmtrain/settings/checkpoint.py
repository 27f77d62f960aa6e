"""What is kept to continue from, and how a run goes on."""

from __future__ import annotations

from dataclasses import dataclass

from lmtrain.settings.checks import positive


@dataclass(kw_only=True)
class CheckpointSection:
    """What is kept to continue from."""

    every: int | None = 100
    """Steps between checkpoints; null writes one at the end only."""
    keep: int | None = 2
    """How many of the newest stay; null keeps all."""
    keep_every: int | None = None
    """Checkpoints of steps that this divides stay for ever; null is none."""
    asynchronous: bool = True
    """Training waits only until a copy is in host memory, and goes on while it is written; false
    waits for the disk."""

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        problems = positive(
            {
                "checkpoint.every": self.every,
                "checkpoint.keep": self.keep,
                "checkpoint.keep_every": self.keep_every,
            }
        )
        if problems or self.keep_every is None:
            return problems
        if self.every is None or self.keep_every % self.every:
            return [
                f"checkpoint.keep_every={self.keep_every} meets no checkpoint of "
                f"checkpoint.every={self.every}: give a multiple of it"
            ]
        return []


@dataclass(kw_only=True)
class ResumeSection:
    """How a run goes on from its checkpoint."""

    replan: bool = False
    """Go on with other data, weights, curriculum or tokens of a step: a new plan uses what the old
    one left of every source and length; false refuses such changes."""
