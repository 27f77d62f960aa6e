"""A sweep from its command to its table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmtrain.sentence import sentence
from lmtrain.settings.launch import by_signal
from lmtrain.sweep.folder import claimed, write_sweep
from lmtrain.sweep.points import Point
from lmtrain.sweep.signals import leading
from lmtrain.sweep.table import print_points

FAILED = 1
"""Exit code of a sweep of which a point failed."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a command asks for: points in a folder."""

    folder: str
    points: Sequence[Point]
    words: Sequence[str]
    """Of the command."""
    experiment: str | None = None
    """The file of ``configs/experiment`` that it runs."""
    preset: str | None = None
    """The file of ``configs/sweep`` that it runs."""

    @property
    def keys(self) -> list[str]:
        """What distinguishes the points."""
        return list(self.points[0].values)

    def check(self) -> None:
        """Refuse what would do nothing, or one thing twice.

        Raises:
            ValueError: nothing varies, two points have one folder, or torchrun started this.
        """
        if "WORLD_SIZE" in os.environ:
            raise ValueError(
                "-m runs its points one by one and starts the processes of each: run it without "
                "torchrun, with launch.nproc=N"
            )
        if not self.points or not self.keys:
            raise ValueError(
                "-m varies nothing: give a key several values, as in optim.lr=1e-3,3e-3, "
                "choose +sweep=NAME, or leave -m out"
            )
        name, times = Counter(point.name for point in self.points).most_common(1)[0]
        if times > 1:
            raise ValueError(
                f"{times} points of the sweep are the same, {name}: leave out the repeated value"
            )

    def run(self, launch: Callable[[], Sequence[Any]], *, aside: bool) -> None:
        """Run the points and print a table of them.

        Args:
            launch: Hydra's launcher, which gives what each point returned.
            aside: it runs them in other processes.

        Raises:
            ValueError: see `check`; or the folder cannot be used.
            SystemExit: a signal stopped it, or a point failed.
        """
        self.check()
        folder, code = Path(self.folder), 0
        with claimed(folder):
            write_sweep(folder, self.told())
            try:
                with leading(aside=aside) as heard:
                    code = max(job.return_value for job in launch())
                code = by_signal(heard[0]) if heard else code
            except SystemExit as stopped:
                code = stopped.code
            except RuntimeError as error:
                raise ChildProcessError(
                    f"the launcher gave up ({sentence(error)}): the same command goes on, and "
                    "launch.restarts=1 gives every point processes that can die alone"
                ) from error
            finally:
                failed = print_points(folder, self.points)
        if code or failed:
            raise SystemExit(code or FAILED)

    def told(self) -> dict[str, object]:
        """What ``sweep.yaml`` says."""
        return {
            "name": self.experiment or self.preset or Path(self.folder).name,
            "overrides": list(self.words),
            "keys": self.keys,
            "experiment": self.experiment,
        }
