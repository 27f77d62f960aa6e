"""What a trained model is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from lmtrain.models.pattern import RECURRENT, parse
from lmtrain.settings.checks import positive

if TYPE_CHECKING:
    from lmtrain.data.tasks.config import TaskConfig
    from lmtrain.models.config import ModelConfig


class ScoreKind(StrEnum):
    """What a score is of."""

    task = "task"
    """Exact matches on rows of a synthetic task."""
    text = "text"
    """The loss on held-back text, by length and by place in the piece."""
    states = "states"
    """How large recurrent states are along a row (state collapse: Chen et al. 2024, arXiv
    2410.07145)."""
    context = "context"
    """The loss of the same targets of held-back text, seeing only so many tokens before them."""


@dataclass(kw_only=True)
class Asked:
    """How long, how many, how many at once: the same for `lmtrain eval` and at the end of a run."""

    lengths: list[int] = field(default_factory=list[int])
    """Tokens of a row, powers of two, as many as you like beyond what was trained on; empty takes
    those of the run."""
    rows: int = 256
    """Rows of each length of a task; they come after those that the run trained on."""
    tokens: int = 262_144
    """Text: about how many targets, spread over the lengths. States, context: about how many tokens
    are read for each length; one row, or one target, at least."""
    row: int = 16_384
    """Tokens computed at once by a process, or together by those that share a row. A process reads
    a longer row in stretches and carries recurrent states, windows and keys from one to the next;
    those that share rows compute them whole."""

    def check_sizes(self, prefix: str = "") -> list[str]:
        """What is wrong with lengths and counts."""
        shape = f"{prefix}lengths={self.lengths} must be powers of two: [1024, 2048, 4096] for one"
        sizes = {"rows": self.rows, "tokens": self.tokens, "row": self.row}
        return [
            *([shape] if any(n < 1 or n & (n - 1) for n in self.lengths) else []),
            *positive({f"{prefix}{key}": value for key, value in sizes.items()}),
        ]


@dataclass(kw_only=True)
class ScoresSection(Asked):
    """Scores after the last step, into ``scores.json``, as `lmtrain eval` would find them."""

    what: list[ScoreKind] = field(default_factory=list[ScoreKind])
    """Any of task, text, states, context; empty scores nothing."""


def unanswerable(
    asked: Asked,
    what: list[ScoreKind],
    *,
    model: ModelConfig,
    task: TaskConfig | None,
    text: bool,
    prefix: str = "",
) -> list[str]:
    """What a model has no answer to, each a sentence with key, value and remedy.

    Args:
        asked: lengths and how many.
        what: kinds of scores.
        model: that is asked.
        task: whose rows are scored, if any is.
        text: whether the run has text.
        prefix: of the keys.
    """
    if task is not None and (unknown := task.check_name()):
        return unknown
    letters = {letter for spec in parse(model.pattern, model.n_layers) for letter in spec.mixers}
    refused: dict[ScoreKind, str] = {}
    if task is None:
        refused[ScoreKind.task] = "needs data.task.name, and there is text: say text"
    if not text:
        why = "needs text, and data.task.name is set: leave it out"
        refused |= {ScoreKind.text: why, ScoreKind.context: why}
    if letters.isdisjoint(RECURRENT):
        refused[ScoreKind.states] = (
            f"needs a recurrent block, M or G, and model.pattern={model.pattern} has none: leave "
            "it out"
        )
    kinds = dict.fromkeys(what)
    found = [
        f"{prefix}what has {kind}, which {why}" for kind, why in refused.items() if kind in kinds
    ]
    found += [
        f"{prefix}what has {kind} twice: say it once" for kind in kinds if what.count(kind) > 1
    ]
    if task is None or not {ScoreKind.task, ScoreKind.states} & set(what):
        return found
    lengths = asked.lengths or task.lengths
    return [*found, *task.check_rows(lengths, model.vocab_size, key=f"{prefix}lengths")]
