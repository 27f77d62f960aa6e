"""The configuration of the data: where tokens come from, and how they are read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite, lcm, prod
from typing import Any

from lmtrain.data.tasks.config import TaskConfig


class MixScope(StrEnum):
    """Where the weights of several sources hold."""

    bucket = "bucket"
    vars()["global"] = "global"  # what users type is a keyword here
    global_ = "global"


@dataclass(kw_only=True)
class SourceConfig:
    """One source of several; its name, not its place, decides the order of its pieces."""

    path: str = ""
    """As ``data.source``: the folder of a token store, or ``stdlib``."""
    weight: float = 1.0
    """Its share of the tokens, relative to the weights of the others."""
    max_repetition: float | None = 4.0
    """How often a run may see its tokens; null is no limit."""


@dataclass(kw_only=True)
class DataConfig:
    """Where the tokens come from."""

    source: str = "stdlib"
    """``stdlib``: the source code of Python's own standard library, made at first use; or the
    folder of a token store written by ``lmtrain prepare``."""
    sources: dict[str, dict[str, Any]] = dataclasses.field(
        default_factory=dict[str, dict[str, Any]]
    )
    """Several sources by name instead of ``source``: {NAME: {path, weight, max_repetition}}. A path
    is as ``source``; weights are shares of the tokens, relative to each other; a run sees the
    tokens of a source at most max_repetition times, 4 unless said, null without a limit. Names are
    free: +data.sources.books.path=PATH names one, and data=mixture begins with web and code."""
    mix_scope: MixScope = MixScope.bucket
    """bucket: the weights hold inside every length, as far as the sources have such lengths;
    global: they hold over the run, and every length mixes the sources as they come."""
    validation: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    """More token stores to validate on in full, {NAME: PATH}; nothing of them is trained on."""
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    """A synthetic task instead of text: data=task data.task.name=mqar."""
    vocab_size: int = 4096
    """Tokens of the tokenizer trained for ``stdlib``; a store brings its own tokenizer."""
    val_fraction: float = 0.05
    """Share of the documents, chosen by their hash, that validate and are never trained on."""
    max_documents: int | None = None
    """Use only the first documents of the store."""
    max_tokens: int | None = None
    """Use only the first documents of the store that hold this many tokens together."""
    cache: str | None = None
    """Folder of what is made at first use; null is $LMTRAIN_CACHE, else ~/.cache/lmtrain."""
    skip_steps: list[list[int]] = dataclasses.field(default_factory=list[list[int]])
    """Ranges [from, to) of the plan's steps that are left out (bad data, loss spikes)."""
    prefetch: int = 4
    """Steps read ahead in the background; 0 reads when asked."""
    threads: int = 1
    """Threads that read ahead."""

    def check(self) -> list[str]:
        """Every problem that can be seen without data, a sentence each."""
        problems = [
            at_least("data.vocab_size", self.vocab_size, 257),
            at_least("data.max_documents", self.max_documents, 1),
            at_least("data.max_tokens", self.max_tokens, 1),
            at_least("data.prefetch", self.prefetch, 0),
            at_least("data.threads", self.threads, 1),
        ]
        if not self.source and not self.sources and self.task.name is None:
            problems.append(
                "data.source is empty: give the folder of a token store, data.source=PATH "
                "(lmtrain prepare writes one), or choose data=stdlib"
            )
        if not 0 <= self.val_fraction < 1:
            problems.append(
                f"data.val_fraction={self.val_fraction} is not a share: use 0 to below 1, like 0.05"
            )
        if not self._skips_in_order():
            problems.append(
                f"data.skip_steps={self.skip_steps} is not a list of ranges in order: "
                "use [[from, to], ...] with from < to, none overlapping"
            )
        problems += [*self._check_sources(), *self._check_task()]
        return [problem for problem in problems if problem]

    def _check_task(self) -> list[str]:
        text = {"data.source": self.source, "data.sources": self.sources}
        both = [
            f"{key}={value} is text and data.task.name={self.task.name} is not: say data=task, and "
            f"leave {key} out"
            for key, value in text.items()
            if value and self.task.name is not None
        ]
        return [*both, *self.task.check()]

    @property
    def named_sources(self) -> dict[str, SourceConfig]:
        """The several sources, in the order of their names; empty where there is one ``source``."""
        return {name: SourceConfig(**self.sources[name]) for name in sorted(self.sources)}

    def _check_sources(self) -> list[str]:
        problems = [
            f"data.validation.{name} is empty: give the folder of a token store, or leave it out"
            for name, path in self.validation.items()
            if not path
        ]
        problems += [
            f"data.validation.{name} and data.sources.{name} have one name: rename one of them"
            for name in self.validation.keys() & self.sources.keys()
        ]
        if self.sources and self.source not in ("", "stdlib"):
            problems.append(
                f"data.source={self.source} and data.sources are both set: give it a name among "
                "data.sources, or leave one of them out"
            )
        for name, values in self.sources.items():
            problems += _check_source(f"data.sources.{name}", values)
        return problems

    def _skips_in_order(self) -> bool:
        borders = [border for skip in self.skip_steps for border in skip]
        pairs = all(len(skip) == 2 and 0 <= skip[0] < skip[1] for skip in self.skip_steps)  # noqa: PLR2004
        return pairs and borders == sorted(borders)


def _check_source(key: str, values: dict[str, Any]) -> list[str]:
    known = {field.name for field in dataclasses.fields(SourceConfig)}
    if unknown := sorted(values.keys() - known):
        return [f"{key}.{unknown[0]} is no key: use path, weight or max_repetition"]
    path, weight = values.get("path"), values.get("weight", 1.0)
    limit = values.get("max_repetition")
    problems: list[str] = []
    if not isinstance(path, str) or not path:
        problems.append(
            f"{key}.path={path} is no folder of a token store: say {key}.path=PATH, or leave it "
            f"out with ~{key}"
        )
    if not _is_positive(weight):
        problems.append(
            f"{key}.weight={weight} is no positive number: leave a source out with ~{key}"
        )
    if limit is not None and not _is_positive(limit):
        problems.append(
            f"{key}.max_repetition={limit} is no positive number: use 4, or null for no limit"
        )
    return problems


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isfinite(value) and value > 0


def check_tokens_per_step(
    tokens_per_step: int, *, max_length: int, accumulate: int = 1, world: int = 1, sequence: int = 1
) -> list[str]:
    """The problem, if any, with the tokens of a step.

    Every row must be whole pieces of any bucket, and cut into equal spans for the ``sequence``
    processes that share it; ``world`` counts the processes, or groups of them, with other rows.
    """
    spans = lcm(max_length, sequence) // max_length
    factors = {
        f"train.accumulate={accumulate}": accumulate,
        f"processes={world}": world,
        f"curriculum.max_length={max_length}": max_length,
    }
    if spans > 1:
        factors[f"{spans} (for parallel.sequence={sequence})"] = spans
    unit = prod(factors.values())
    if tokens_per_step > 0 and tokens_per_step % unit == 0:
        return []
    below = max(0, tokens_per_step) // unit * unit
    near = " or ".join(str(value) for value in (below, below + unit) if value > 0)
    return [
        f"train.tokens_per_step={tokens_per_step} does not divide by {' x '.join(factors)}: "
        f"use {near}"
    ]


def at_least(key: str, value: int | None, least: int) -> str:
    """The problem, if any, with a number that has a least value; none with null."""
    return (
        ""
        if value is None or value >= least
        else f"{key}={value} is too small: use {least} or more"
    )


def power_of_two(key: str, value: int | None) -> str:
    """The problem, if any, with a number that must be a power of two; none with null."""
    if value is None or (value > 0 and value & (value - 1) == 0):
        return ""
    near = 1 << max(value, 1).bit_length()
    return f"{key}={value} is not a power of two: use {near // 2} or {near}"
