"""Ctrl-C and SIGTERM as a wish that the trainer reads after each step."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import FrameType


class StopRequest:
    """Remembers the signal that asked this process to stop.

    Args:
        insist: a second signal raises KeyboardInterrupt. Under a launcher it does not, because
            launchers pass on signals that the terminal has already delivered.
    """

    def __init__(self, *, insist: bool) -> None:
        self.signal: int | None = None
        self._insist = insist
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Listen; signals that are ignored stay ignored."""
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
            if self._insist:
                say_stopping()
        elif self._insist:
            raise KeyboardInterrupt


def say_stopping() -> None:
    """Tell the person at the terminal that they were heard."""
    told = "finishing the step, then saving; once more quits at once"
    print(f"\n{told}", file=sys.stderr, flush=True)
