"""Signals as a wish that the trainer reads after each step, and an end to patience."""

from __future__ import annotations

import os
import signal
import sys
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import FrameType

    from lmtrain.settings.launch import LaunchSection

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""What asks a run to stop: a person, a launcher, a scheduler that wants the machine back."""


class StopRequest:
    """Remembers the signal that asked this process to stop.

    After SIGTERM and SIGUSR1 the process is gone within ``launch.grace_seconds``, whatever it is
    doing: a thread counts, because a handler runs only when the main thread comes out of what it
    waits for.

    Args:
        launch: says how long, and the exit code.
        insist: a second signal raises KeyboardInterrupt. Under a launcher it does not, because
            launchers pass on signals that the terminal has already delivered.
    """

    def __init__(self, launch: LaunchSection, *, insist: bool) -> None:
        self.signal: int | None = None
        self.doing = "the start"
        """What the process is at, in words, for whoever reads why it left."""
        self._launch, self._insist = launch, insist
        self._before: dict[signal.Signals, Any] = {}
        self._over = Event()

    def __enter__(self) -> Self:
        """Listen; signals that are ignored stay ignored."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._hear)
        if self._launch.grace_seconds is not None:
            self._heard, writes = os.pipe()
            os.set_blocking(writes, False)
            self._wakeup = signal.set_wakeup_fd(writes, warn_on_full_buffer=False), writes
            Thread(target=self._watch, name="grace", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        self._over.set()
        if self._launch.grace_seconds is not None:
            before, writes = self._wakeup
            signal.set_wakeup_fd(before)
            os.close(writes)  # the thread reads the end
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
            if self._insist:
                say_stopping()
        elif self._insist:
            raise KeyboardInterrupt

    def _watch(self) -> None:
        """Leave ``grace_seconds`` after the first signal that has no patience."""
        while heard := os.read(self._heard, 1):
            if heard[0] != signal.SIGINT:
                self._leave(heard[0], self._launch.grace_seconds)
        os.close(self._heard)

    def _leave(self, number: int, grace: float | None) -> None:
        if self._over.wait(grace):
            return
        print(
            f"lmtrain: process {os.environ.get('RANK', '0')} was still at {self.doing} "
            f"launch.grace_seconds={grace:g} after {signal.Signals(number).name}: it leaves with "
            "what is saved; the same command continues",
            file=sys.stderr,
            flush=True,
        )
        os._exit(self._launch.exit_code(number))


def end_with(parent: int) -> None:
    """Let this process be killed as soon as ``parent``, which started it, is gone.

    Nothing less ends a worker: it ignores SIGINT, and takes SIGTERM for a wish.
    """
    from torch.multiprocessing import _prctl_pr_set_pdeathsig  # pyright: ignore

    _prctl_pr_set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before we asked
        signal.raise_signal(signal.SIGKILL)


def say_stopping() -> None:
    """Tell the person at the terminal that they were heard."""
    told = "finishing the step, then saving; once more quits at once"
    print(f"\n{told}", file=sys.stderr, flush=True)
