"""Work in processes of its own that can be killed, without the seconds that imports take."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_SECONDS = 300


def fork(work: Callable[[], int], **environment: str) -> int:
    """Begin ``work`` in a copy of this process, which exits with its result; the process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads: none of ours hold a lock
        child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.environ.update(environment)
        code = work()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except ValueError as error:
        print(f"lmtrain: {error}", file=sys.stderr)
        code = 2
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int:
    """The exit code of a process, minus the signal that killed it."""
    for _ in range(PATIENCE_SECONDS * 50):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("a process hangs")


def places(world: int) -> list[dict[str, str]]:
    """The variables by which torchrun places each of several ranks of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    sizes = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    return [{**group, **sizes, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(world)]


def ranks(world: int, work: Callable[[], int]) -> list[int]:
    """Exit codes of ``work`` on each of several ranks that can join a group."""
    children = [fork(work, **place) for place in places(world)]
    return [wait(child) for child in children]


def children(pid: int) -> list[int]:
    """Processes that a process started and that are still there."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for each in lists for child in each.read_text().split()]


def workers(pid: int) -> list[int]:
    """Those of them that train: all but the tracker of what Python shares."""
    named = {child: Path(f"/proc/{child}/cmdline").read_text() for child in children(pid)}
    return [child for child, name in named.items() if "resource_tracker" not in name]


@contextmanager
def instead(owner: Any, name: str, other: Callable[..., Any]) -> Iterator[None]:
    """``other(original, *args)`` in place of a method of ``owner``."""
    original = getattr(owner, name)
    setattr(owner, name, lambda *args, **more: other(original, *args, **more))
    try:
        yield
    finally:
        setattr(owner, name, original)


def kill_at_call(number: int, *, rank: int | None = None) -> Callable[..., Any]:
    """For `instead`: this process kills itself where the call of that number begins, from 1."""
    calls = iter(range(1, sys.maxsize))

    def other(original: Callable[..., Any], *args: Any, **more: Any) -> Any:
        ours = rank is None or os.environ.get("RANK") == str(rank)
        if next(calls) == number and ours:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **more)

    return other
