"""The configuration of a synthetic task as the data of a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmtrain.data.tasks.task import Task


@dataclass(kw_only=True)
class TaskConfig:
    """A synthetic task instead of text; its rows are drawn when they are read."""

    name: str | None = None
    """mqar, key_value, passkey, needles, induction, copy, selective_copy, sort, parity, count, a5,
    s5 or languages; null trains on text."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    """Fields of the task that differ from its defaults: {pairs: 32}; see ``lmtrain.data.tasks``."""
    lengths: list[int] = dataclasses.field(default_factory=lambda: [64, 128, 256])
    """Tokens of a row; every length has rows of its own, a bucket each."""
    rows: int = 65_536
    """Rows of each length in an epoch."""
    val_rows: int = 256
    """More rows of each length, which validate and are never trained on."""
    seed: int = 0
    """Decides the rows; their order is decided by run.seed."""

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        if self.name is None:
            return []
        if unknown := self.check_name():
            return unknown
        least = {"rows": self.rows, "val_rows": self.val_rows}
        problems = [f"data.task.{key}={n} must be at least 1" for key, n in least.items() if n < 1]
        if not self.lengths or any(n < 1 or n & (n - 1) for n in self.lengths):
            problems.append(
                f"data.task.lengths={self.lengths} must be powers of two: [64, 128, 256] for one"
            )
        try:
            shortest = self.task.shortest, self.task.vocab_size
        except (TypeError, ValueError) as error:
            return [*problems, f"data.task.options={self.options}: {error}"]
        if self.lengths and min(self.lengths) < shortest[0]:
            problems.append(
                f"data.task.lengths={self.lengths} has rows too short for {self.task}: use "
                f"{shortest[0]} or more"
            )
        return problems

    def check_name(self) -> list[str]:
        """Whether there is such a task, with such options."""
        from lmtrain.data.tasks.table import TASKS  # which needs numpy and torch

        if self.name not in TASKS:
            return [f"data.task.name={self.name} is no task: use one of {', '.join(TASKS)}"]
        known = sorted(field.name for field in dataclasses.fields(_fields(self.name)))
        return [
            f"data.task.options.{key} is no field of {self.name}: use {', '.join(known)}"
            for key in sorted(self.options.keys() - set(known))
        ]

    @property
    def task(self) -> Task:
        """The task.

        Raises:
            ValueError: it cannot be made so.
        """
        assert self.name is not None
        return dataclasses.replace(_fields(self.name), **self.options)


def _fields(name: str) -> Any:
    """The task of this name, which is a dataclass."""
    from lmtrain.data.tasks.table import TASKS

    return TASKS[name]
