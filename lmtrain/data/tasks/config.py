"""The configuration of a synthetic task as the data of a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmtrain.data.tasks.task import Task


LARGEST_VOCABULARY = 1 << 20
"""Tokens of a task: each is a word of a tokenizer and a row of the embedding."""


@dataclass(kw_only=True)
class TaskConfig:
    """A synthetic task instead of text; its rows are drawn when they are read."""

    name: str | None = None
    """mqar, key_value, passkey, needles, induction, copy, selective_copy, sort, parity, count, a5,
    s5 or languages; null trains on text."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    """Fields of the task that differ from its defaults, each as +data.task.options.pairs=32; one
    that the task has not is answered with those it has."""
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
        return [*problems, *self.check_rows(self.lengths)]

    def check_name(self) -> list[str]:
        """Whether there is such a task, and can be with such options."""
        from lmtrain.data.tasks.table import TASKS  # which needs numpy and torch

        if self.name not in TASKS:
            return [f"data.task.name={self.name} is no task: use one of {', '.join(TASKS)}"]
        usual = _usual(self.name)
        known = {field.name: getattr(usual, field.name) for field in dataclasses.fields(usual)}
        found = [
            f"data.task.options.{key} is no field of {self.name}: use {', '.join(sorted(known))}"
            for key in sorted(self.options.keys() - known.keys())
        ]
        found += [
            problem
            for key, value in sorted(self.options.items())
            if key in known and (problem := _wrong(f"data.task.options.{key}", value, known[key]))
        ]
        if found:
            return found
        try:
            size = self.task.vocab_size
        except ValueError as error:
            return [f"data.task.options={self.options}: {error}"]
        if size > LARGEST_VOCABULARY:
            return [
                f"data.task.options={self.options} makes {size} tokens: {LARGEST_VOCABULARY} are "
                "the most"
            ]
        return []

    def check_rows(
        self, lengths: list[int], vocabulary: int | None = None, *, key: str = "data.task.lengths"
    ) -> list[str]:
        """Whether rows of these lengths hold the task, and a model of this vocabulary its tokens.

        Args:
            lengths: of rows.
            vocabulary: None has room for all.
            key: of the lengths.
        """
        found: list[str] = []
        if vocabulary is not None and self.task.vocab_size > vocabulary:
            found.append(
                f"{self.task} has {self.task.vocab_size} tokens and the model {vocabulary}: train "
                "it with data=task and this task, or score another"
            )
        if lengths and min(lengths) < self.task.shortest:
            found.append(
                f"{key}={lengths} has rows too short for {self.task}: use {self.task.shortest} or "
                "more"
            )
        return found

    @property
    def task(self) -> Task:
        """The task.

        Raises:
            ValueError: its options do not fit each other.
        """
        assert self.name is not None
        return dataclasses.replace(_usual(self.name), **self.options)


def _usual(name: str) -> Any:
    """The task of this name with its own options, which is a dataclass."""
    from lmtrain.data.tasks.table import TASKS

    return TASKS[name]


def _wrong(key: str, value: object, usual: object) -> str | None:
    """What is wrong with the type of an option, or with its sign."""
    match usual:
        case str():
            return None if isinstance(value, str) else f"{key}={value} must be text, as {usual}"
        case int():
            right, named = isinstance(value, int), "a whole number"
        case _:
            right, named = isinstance(value, int | float), "a number"
    if not right or isinstance(value, bool):
        return f"{key}={value} must be {named}, as {usual}"
    assert isinstance(value, int | float)
    return None if 0 < value < float("inf") else f"{key}={value} must be positive, as {usual}"
