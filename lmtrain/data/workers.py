"""Processes that build units: each asks for the next one, works on one core, and reports.

Workers are fresh interpreters that talk in lines of JSON, so nothing is forked while threads exist,
the program that asked need not be importable, and a worker whose parent was killed reads the end of
its input and goes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, cast

from lmtrain.data.builder import Builder, Job, Report
from lmtrain.data.hub import HubDataset
from lmtrain.data.readers import Problem
from lmtrain.data.units import Unit, UnitKind

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from typing import IO

NO_UNIT = -1
"""The unit of a report on the worker itself."""

ONE_CORE = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def build_units(job: Job, units: Sequence[Unit], workers: int) -> Generator[Report]:
    """Build them with so many processes, this one alone if it is one; reports as they come.

    Raises:
        ValueError: a worker ended before its time.
    """
    workers = min(workers, len(units))
    if workers > 1:
        yield from _in_processes(job, units, workers)
        return
    builder = Builder(job)
    for unit in units:
        with one_thread():
            yield from builder.build(unit)


@contextmanager
def one_thread() -> Generator[None]:
    """Meanwhile the tokenizers library works on one core."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        del os.environ["TOKENIZERS_PARALLELISM"]
        if before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _in_processes(job: Job, units: Sequence[Unit], workers: int) -> Generator[Report]:
    pending, reports = deque(units), SimpleQueue[Report | None]()
    with ExitStack() as stack:
        for _ in range(workers):
            process = stack.enter_context(_worker())
            thread = Thread(target=_serve, args=(process, job, pending, reports), daemon=True)
            thread.start()
        while workers:
            report = reports.get()
            if report is None:
                workers -= 1
            else:
                yield report


@contextmanager
def _worker() -> Generator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", "-c", "from lmtrain.data.workers import work; work()"]
    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **ONE_CORE, "PYTHONPATH": paths},
    )
    try:
        yield process
    finally:
        process.kill()
        with suppress(BrokenPipeError), process:  # what a dead one was still to hear is lost
            pass


def _serve(
    process: subprocess.Popen[str],
    job: Job,
    pending: deque[Unit],
    reports: SimpleQueue[Report | None],
) -> None:
    """Give one worker unit after unit, and pass its reports on; None when it is done."""
    try:
        _say(process.stdin, asdict(job))
        while pending:
            unit = pending.popleft()
            _say(process.stdin, asdict(unit))
            while not _is_last(report := _hear(process.stdout)):
                reports.put(report)
            reports.put(report)
    except IndexError:
        pass  # another worker took the last unit
    except (OSError, EOFError, ValueError):  # it was killed, here or elsewhere
        reports.put(Report(unit=NO_UNIT, error=_ended(process)))
    finally:
        reports.put(None)


def _is_last(report: Report) -> bool:
    return bool(report.done or report.error or report.problems)


def _ended(process: subprocess.Popen[str]) -> str:
    code = process.wait()
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
    return (
        f"a worker was ended {how}: if memory ran out use fewer workers; the same command goes on "
        "from the units that are finished"
    )


def _say(file: IO[str] | None, message: dict[str, Any]) -> None:
    assert file is not None
    file.write(json.dumps(message) + "\n")
    file.flush()


def _hear(file: IO[str] | None) -> Report:
    assert file is not None
    line = file.readline()
    if not line:
        raise EOFError
    data: dict[str, Any] = json.loads(line)
    problems = tuple(Problem(**problem) for problem in data.pop("problems"))
    return Report(**data, problems=problems)


def work() -> None:
    """The life of a worker: a job, then units, from standard input; reports to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no report
    builder = Builder(_job(json.loads(sys.stdin.readline())))
    for line in sys.stdin:
        for report in builder.build(_unit(json.loads(line))):
            _say(cast("IO[str]", reports), asdict(report))


def _job(data: dict[str, Any]) -> Job:
    dataset = data.pop("dataset")
    return Job(**data, dataset=HubDataset(**dataset) if dataset else None)


def _unit(data: dict[str, Any]) -> Unit:
    kind, files = UnitKind(data.pop("kind")), tuple(data.pop("files"))
    return Unit(**data, kind=kind, files=files)
