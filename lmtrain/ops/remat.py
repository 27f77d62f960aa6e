"""What a recomputation must not do again: results of communication are kept, the rest is not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from threading import local
from typing import TypeVar

T = TypeVar("T")

_here = local()


def remember(start: Callable[[], Callable[[], T]]) -> Callable[[], T]:
    """``start()``, and a function that waits for what it began.

    In the first pass of a checkpointed region the result is kept; in its recomputation nothing is
    started and the kept result is given. Outside such a region it is just ``start()``.
    """
    tape: _Tape | None = getattr(_here, "tape", None)
    if tape is None:
        return start()
    if tape.replaying:
        result: T = tape.results.popleft()  # type: ignore[assignment]
        return lambda: result
    wait = start()

    def finish() -> T:
        result = wait()
        tape.results.append(result)
        return result

    return finish


class _Tape:
    def __init__(self) -> None:
        self.results: deque[object] = deque()
        self.replaying = False


def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For ``checkpoint(context_fn=contexts)``: around the first pass, and around the second."""
    tape = _Tape()
    return _on(tape, replaying=False), _on(tape, replaying=True)


@contextmanager
def _on(tape: _Tape, *, replaying: bool) -> Generator[None]:
    before, _here.tape = getattr(_here, "tape", None), tape
    tape.replaying = replaying
    try:
        yield
    finally:
        _here.tape = before
