"""Processes of this machine."""

from __future__ import annotations

from dataclasses import dataclass

from lmtrain.settings.checks import positive


@dataclass(kw_only=True)
class LaunchSection:
    """Processes of this machine. Under torchrun the processes are already there."""

    nproc: int = 1
    """Processes to start, each with an equal part of every batch."""
    threads: int | None = None
    """Threads of each process; null shares the cores out."""

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        return positive({"launch.nproc": self.nproc, "launch.threads": self.threads})
