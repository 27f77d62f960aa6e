"""One point of a sweep: a run that fails alone."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from lmtrain.config import typed
from lmtrain.sentence import sentence
from lmtrain.sweep.folder import forget_error, write_error
from lmtrain.sweep.signals import Worker, leads
from lmtrain.train.launch import launch

if TYPE_CHECKING:
    from pathlib import Path

    from omegaconf import DictConfig

WORKER = Worker()
"""This process, which may run several points one after the other."""


def run_point(composed: DictConfig, folder: Path) -> int:
    """Train one point; a failure is written into its folder and ends nothing else.

    Returns:
        0, or the exit code of a signal that asked the sweep to stop.

    Raises:
        SystemExit: the same, where leaving this process ends the sweep.
    """
    if WORKER.stopped:
        return WORKER.stopped
    composed.run.dir = os.path.relpath(folder)
    first = os.environ.get("RANK", "0") == "0"
    if first:
        print(f"{folder.name}: begins", flush=True)
    try:
        with WORKER as aside, _told_in(folder) if aside else nullcontext():
            code = launch(typed(composed))
    except KeyboardInterrupt:
        raise
    except SystemExit as error:
        if not isinstance(error.code, int):
            _fail(folder, error, first=first)
            return 0
        code = error.code
    except Exception as error:
        if "WORLD_SIZE" in os.environ and not isinstance(error, ValueError):
            raise  # the others wait in a collective: torchrun ends them
        _fail(folder, error, first=first)
        return 0
    if code and leads():
        raise SystemExit(code)
    WORKER.stopped = code
    if first and not code:
        forget_error(folder)
    return code


@contextmanager
def _told_in(folder: Path) -> Iterator[None]:
    """Points that run side by side tell what they do in their folders, not over each other."""
    output = (folder / "output.txt").open("a", buffering=1, encoding="utf-8")
    with output, redirect_stdout(output), redirect_stderr(output):
        yield
    last = (folder / "output.txt").read_text(encoding="utf-8").splitlines()[-1:]
    print(f"{folder.name}: {''.join(last)}", flush=True)


def _fail(folder: Path, error: BaseException, *, first: bool) -> None:
    """Say why, in the folder and here; a fault of the program with its traceback."""
    if not first:
        return
    if not isinstance(error, ValueError | SystemExit) or os.environ.get("LMTRAIN_TRACEBACK") == "1":
        traceback.print_exception(error)
    told = sentence(error).removeprefix("lmtrain: ")
    write_error(folder, _in_one_line(told))
    print(f"lmtrain: {folder.name}: {told}", file=sys.stderr, flush=True)


def _in_one_line(told: str) -> str:
    """Every problem of a list; of one sentence no picture of the place below it."""
    first, *more = told.splitlines()
    return " ".join([first, *more]) if first.endswith("problems:") else first
