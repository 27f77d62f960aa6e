"""One point of a sweep: a run that fails alone."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from lmtrain.config import typed
from lmtrain.sentence import sentence
from lmtrain.sweep.folder import forget_error, write_error
from lmtrain.sweep.points import values_of
from lmtrain.sweep.signals import Stopped, Worker, leads
from lmtrain.train.launch import launch

if TYPE_CHECKING:
    from omegaconf import DictConfig

WORKER = Worker()
"""This process, which may run several points one after the other."""


def run_point(composed: DictConfig, folder: Path, words: Sequence[str] = ()) -> int:
    """Train one point; a failure is written into its folder and ends nothing else.

    Args:
        composed: its configuration.
        folder: its run folder.
        words: the overrides that it was composed with.

    Returns:
        0, or the exit code of a signal that asked the sweep to stop.

    Raises:
        SystemExit: the same, where leaving this process ends the sweep.
    """
    if WORKER.stopped:
        return WORKER.stopped
    here = Path.cwd()
    composed.run.dir = str(folder.relative_to(here) if folder.is_relative_to(here) else folder)
    print(f"{folder.name}: begins", flush=True)
    try:
        with WORKER as aside, _told_in(folder) if aside else nullcontext():
            code = launch(typed(composed))
    except Stopped:
        code = WORKER.stopped
    except Exception as error:
        _fail(folder, error, words)
        return 0
    if code and leads():
        raise SystemExit(code)
    WORKER.stopped = code
    print(f"{folder.name}: {'stopped' if code else 'finished'}", flush=True)
    if not code:
        forget_error(folder)
    return code


@contextmanager
def _told_in(folder: Path) -> Iterator[None]:
    """Points that run side by side tell what they do in their folders, not over each other."""
    output = (folder / "output.txt").open("a", buffering=1, encoding="utf-8")
    with output, redirect_stdout(output), redirect_stderr(output):
        yield


def _fail(folder: Path, error: Exception, words: Sequence[str]) -> None:
    """Say why, in the folder and here; a fault of the program with its traceback."""
    expected = isinstance(error, ValueError | ChildProcessError)
    if not expected or os.environ.get("LMTRAIN_TRACEBACK") == "1":
        traceback.print_exception(error)
    told = sentence(error)
    write_error(folder, _in_one_line(told), values_of(words))
    print(f"lmtrain: {folder.name}: {told}", file=sys.stderr, flush=True)


def _in_one_line(told: str) -> str:
    """Every problem of a list; of one sentence no picture of the place below it."""
    first, *more = told.splitlines()
    return " ".join([first, *more]) if first.endswith("problems:") else first
