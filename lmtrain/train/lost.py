"""What it means when processes cannot reach each other, in a sentence."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.train.engines import Engine
    from lmtrain.train.stop import StopRequest

LATE = re.compile(r"timed out|timeout", re.IGNORECASE)
GONE = re.compile(r"connection (closed|reset|refused)|broken pipe|socket|peer", re.IGNORECASE)
"""How gloo and NCCL put it."""


@contextmanager
def naming(engine: Engine, stop: StopRequest) -> Iterator[None]:
    """End with a sentence that names this process and its step when another one is lost.

    Raises:
        SystemExit: a message between processes failed; a launcher may start all of them again.
    """
    try:
        yield
    except RuntimeError as error:
        said = _first_line(error)
        late, gone = LATE.search(said), GONE.search(said) or isinstance(error, dist.DistError)
        if engine.world == 1 or not (late or gone):
            raise
        why = "did not answer within launch.timeout_seconds" if late else "is gone"
        leave(engine.rank, engine.world, f"{why}, at {stop.doing}", error)


def leave(rank: int, world: int, why: str, error: RuntimeError) -> NoReturn:
    """End this process with a sentence of another one, where an error of torch says less.

    Raises:
        SystemExit: always.
    """
    told = f"lmtrain: process {rank} of {world}: another process {why} ({_first_line(error)})"
    print(told, file=sys.stderr, flush=True)
    raise SystemExit(1) from error


def _first_line(error: RuntimeError) -> str:
    return str(error).partition("\n")[0]
