"""Contenders that take turns at one work, so that noise of the machine meets all of them."""

from __future__ import annotations

import multiprocessing
import os
import statistics
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.connection import Connection

    from lmtrain.bench.config import BenchConfig


SECONDS_TO_END = 5.0
"""How long a process may take to clean up."""


class Turn(NamedTuple):
    """The work done once: its seconds, and how many tokens or documents it dealt with."""

    seconds: float
    amount: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one contender did at one work."""

    what: str
    contender: str
    unit: str
    """Of ``value``: seconds, or something per second and core."""
    seconds: list[float]
    """Of every timed turn."""
    amount: int
    """What a turn deals with; 0 where ``value`` is the median time."""
    cores: int = 1
    target: float | None = None
    """The least speed, or the most seconds, that we ask of ourselves."""

    @property
    def value(self) -> float:
        """Of the median turn."""
        median = statistics.median(self.seconds)
        return self.amount / (median * self.cores) if self.amount else median

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.amount else self.value <= self.target

    def speed_over(self, other: Result) -> float:
        """How many times as fast as ``other`` at like work: the median over rounds.

        The two turns of a round follow each other, so a machine whose speed drifts drifts for both.
        """
        more = self.amount / other.amount if self.amount else 1
        rounds = zip(self.seconds, other.seconds, strict=True)
        return more * statistics.median(theirs / ours for ours, theirs in rounds)


def timed(work: Callable[[], int]) -> Turn:
    """One turn of ``work``, which returns its amount."""
    started = perf_counter()
    amount = work()
    return Turn(perf_counter() - started, amount)


def compare(
    what: str,
    contenders: Mapping[str, Callable[[], Turn]],
    config: BenchConfig,
    *,
    unit: str,
    cores: int = 1,
    target: float | None = None,
) -> list[Result]:
    """The results of all, in their order; the first one is ours, and the ``target`` is for it."""
    turns = take_turns(list(contenders.values()), config)
    return [
        Result(
            what=what,
            contender=name,
            unit=unit,
            seconds=[turn.seconds for turn in mine],
            amount=mine[0].amount,
            cores=cores,
            target=None if number else target,
        )
        for number, (name, mine) in enumerate(zip(contenders, turns, strict=True))
    ]


def take_turns(contenders: list[Callable[[], Turn]], config: BenchConfig) -> list[list[Turn]]:
    """The timed turns of each contender, after ``warm_up`` ones that do not count."""
    for contender in contenders:
        for _ in range(config.warm_up):
            contender()
    turns: list[list[Turn]] = [[] for _ in contenders]
    for turn in range(config.repeats):
        for number in range(len(contenders)):
            at = (number + turn) % len(contenders)
            turns[at].append(contenders[at]())
    return turns


class Process:
    """A contender in a fresh process, with an environment of its own.

    Args:
        environment: variables that libraries read when they are loaded.
        build: a function of a module, which returns the contender.
        args: its arguments.
    """

    def __init__(
        self, environment: dict[str, str], build: Callable[..., Callable[[], Turn]], *args: Any
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, self._theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(self._theirs, environment, build, args)
        )

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()  # so that a dead process ends the pipe
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()  # ends its work
        self._process.join(SECONDS_TO_END)
        self._process.kill()
        self._process.join()

    def __call__(self) -> Turn:
        """One turn.

        Raises:
            RuntimeError: the process died.
        """
        try:
            self._pipe.send("turn")
            return self._pipe.recv()
        except (EOFError, OSError):
            raise RuntimeError("a contender's process died; its error is above") from None


def _serve(
    pipe: Connection,
    environment: dict[str, str],
    build: Callable[..., Callable[[], Turn]],
    args: tuple[Any, ...],
) -> None:
    os.environ.update(environment)
    contender = build(*args)
    with suppress(EOFError):  # the benchmark is over, or was interrupted
        while pipe.recv():
            pipe.send(contender())
