"""``python -m benchmarks.host``: what a call of each kernel costs the host, without its launches.

Microseconds of one thread of this machine, which needs no card: launches of Triton do nothing here,
and results mean nothing. A card waits for its host where a row is short, so what a call takes
before and after a launch counts. Beside it, the same through torch's dispatcher, as in a graph.
"""

from __future__ import annotations

import argparse
import os
import sys
from time import perf_counter
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.cases import SMOKE
from benchmarks.contenders import OURS, contenders
from benchmarks.timing import training
from lmtrain_kernels import operators

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.case import Case

REPEATS = 5


def seconds(call: Callable[[], object], calls: int) -> float:
    """Of one call: the fastest of some runs of many."""
    found = []
    for _ in range(REPEATS):
        began = perf_counter()
        for _ in range(calls):
            call()
        found.append((perf_counter() - began) / calls)
    return min(found)


def measure(case: Case, calls: int) -> list[float]:
    """Microseconds of forward pass and training step, as they are and through the dispatcher."""
    inputs = case.draw(torch.Generator().manual_seed(0))
    run = contenders(case)[OURS](case, case.layout(torch.device("cpu")))
    stages = training(run, inputs)

    def step() -> None:
        for stage in stages:
            stage()

    found = []
    for dispatched in (False, True):
        with patch.object(operators, "is_in_torch_dispatch_mode", lambda told=dispatched: told):
            found += [1e6 * seconds(call, calls) for call in (lambda: run(*inputs), step)]
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Measure every operation; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host", description=__doc__)
    parser.add_argument("--calls", type=int, default=400, help="of each, in a run")
    calls = parser.parse_args(words).calls
    if os.environ.get("TRITON_INTERPRET") == "1":
        print("TRITON_INTERPRET=1 runs kernels on the host: leave it out")
        return 2
    from triton.runtime.jit import JITFunction

    torch.set_num_threads(1)
    table = Table("operation", "forward", "training", "forward, dispatched", "training, dispatched")
    with patch.object(JITFunction, "run", lambda *_, **__: None):
        for case in SMOKE:
            table.add_row(case.operation, *(f"{x:.0f} us" for x in measure(case, calls)))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
