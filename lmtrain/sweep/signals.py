"""Signals to a sweep: points save and stop, and no other begins.

A launcher may run points in the process that leads the sweep, which then hears for itself while it
trains; or in workers, which hear nothing of a signal to the leader and would outlive it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lmtrain.settings.launch import by_signal
from lmtrain.train.stop import SIGNALS, end_with

if TYPE_CHECKING:
    from types import FrameType

LEADER = "LMTRAIN_SWEEP_LEADER"
"""Environment variable: the process that leads the sweep."""


@contextmanager
def leading(*, aside: bool) -> Iterator[list[int]]:
    """Stop the sweep at the first signal, as soon as workers have saved; at once at the second.

    Args:
        aside: points run in workers.

    Yields:
        The signals that were heard.
    """
    heard: list[int] = []

    def hear(number: int, _: FrameType | None) -> None:
        heard.append(number)
        workers = _children() if aside else []
        if len(heard) > 1:
            raise KeyboardInterrupt
        if not workers:
            raise SystemExit(by_signal(number))
        for worker in workers:
            os.kill(worker, signal.SIGTERM)

    os.environ[LEADER] = str(os.getpid())
    before = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        del os.environ[LEADER]


def leads() -> bool:
    """Whether this process leads a sweep: leaving it ends the sweep."""
    return os.environ.get(LEADER) == str(os.getpid())


class Stopped(BaseException):
    """A worker was asked to stop while it prepared a point."""


class Worker:
    """A process beside the leader, on its machine: ends with it, and begins nothing once stopped.

    While it trains, `lmtrain.train.stop` hears in its place.
    """

    def __init__(self) -> None:
        self.stopped = 0
        """The exit code of the signal that it heard."""
        self._busy = False

    def __enter__(self) -> bool:
        """Listen, if this is such a process, and say whether it is."""
        if os.environ.get(LEADER) != str(os.getppid()):
            return False
        end_with(int(os.environ[LEADER]))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells all, the leader relays
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._hear)
        self._busy = True
        return True

    def __exit__(self, *_: object) -> None:
        """Remember what is heard between two points."""
        self._busy = False

    def _hear(self, number: int, _: FrameType | None) -> None:
        self.stopped = by_signal(number)
        if self._busy:
            raise Stopped


def _children() -> list[int]:
    """Processes that this one started."""
    lists = Path("/proc/self/task").glob("*/children")
    return [int(pid) for each in lists for pid in each.read_text().split()]
