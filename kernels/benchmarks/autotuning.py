"""Other libraries tune when they first run: on all cores, and each trial no longer than needed."""

from __future__ import annotations

from functools import partial
from typing import Any

WARM_UP, REPEAT = 5, 25
"""Milliseconds of a trial; Triton's own 25 and 100 find the same at a quarter of the speed."""


def shorten() -> None:
    """Let autotuners of this process try every configuration for less time."""
    from triton.runtime import driver
    from triton.testing import do_bench

    benchmark = partial(do_bench, warmup=WARM_UP, rep=REPEAT)
    driver.active.get_benchmarker = lambda: benchmark  # pyright: ignore[reportAttributeAccessIssue]


def share(number: int, count: int) -> None:
    """Let autotuners of this process try every ``count``-th configuration only.

    What they find is worthless; what they compile is in Triton's cache for everybody.
    """
    from triton.runtime.autotuner import Autotuner

    prune = Autotuner.prune_configs

    def part(self: Autotuner, kwargs: dict[str, Any]) -> list[Any]:
        found = list(prune(self, kwargs))
        return found[number::count] or found[:1]

    Autotuner.prune_configs = part  # pyright: ignore[reportAttributeAccessIssue]
