"""Processes: how many, how long they wait for each other, how they end and begin again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from lmtrain.settings.checks import above_zero, positive

LARGEST_CODE = 255
"""Exit codes are a byte."""


def by_signal(signal: int) -> int:
    """The exit code of what a signal ended, as shells give it."""
    return 128 + signal


@dataclass(kw_only=True)
class LaunchSection:
    """Processes of this machine. Under torchrun the processes are already there."""

    nproc: int = 1
    """Processes to start, each with an equal part of every batch."""
    threads: int | None = None
    """Threads of each process; null shares the cores out."""
    restarts: int = 0
    """How often processes that died are started again, all together, from the newest checkpoint;
    under torchrun its own --max-restarts decides."""
    timeout_seconds: int = 1800
    """How long a process waits for another one before it gives up."""
    grace_seconds: float | None = None
    """At most this long after SIGTERM or SIGUSR1 the processes leave, saved or not; null waits for
    the step and its checkpoint."""
    requeue_code: int | None = None
    """Exit code of a run that a signal stopped, for a scheduler that starts it again; null is
    128 + signal."""

    @property
    def timeout(self) -> timedelta:
        """How long a process waits for another one."""
        return timedelta(seconds=self.timeout_seconds)

    def exit_code(self, signal: int) -> int:
        """Of a run that a signal stopped."""
        return by_signal(signal) if self.requeue_code is None else self.requeue_code

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        problems = positive(
            {
                "launch.nproc": self.nproc,
                "launch.threads": self.threads,
                "launch.timeout_seconds": self.timeout_seconds,
            }
        )
        if self.restarts < 0:
            problems.append(f"launch.restarts={self.restarts} is negative: 0 starts nothing again")
        problems += above_zero({"launch.grace_seconds": self.grace_seconds})
        if self.requeue_code is not None and not 0 < self.requeue_code <= LARGEST_CODE:
            problems.append(
                f"launch.requeue_code={self.requeue_code} is no exit code of an unfinished run: "
                "give one from 1 to 255"
            )
        return problems
