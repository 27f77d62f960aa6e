"""Time on a card: events around work that is already queued, cold caches, contenders in turns."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from benchmarks.contenders import Run

Stages: TypeAlias = "Sequence[Callable[[], object]]"
"""What runs one after the other, timed apart."""
GIBI = 2**30
MATRIX = 8192
MOST_SLEEP = 0.02
"""Seconds that a card may wait for its host."""


class Ceilings(NamedTuple):
    """What the card reaches in plain work; no kernel does better."""

    bytes_per_second: float
    """Read and written, by a copy of 1 GiB."""
    flops_per_second: float
    """By a product of bf16 matrices of 8192 rows."""


@dataclass
class Times:
    """Seconds of every turn."""

    stages: list[list[float]] = field(default_factory=list[list[float]])
    """Of each stage."""
    host: list[float] = field(default_factory=list[float])
    """That the host needed to start all of them."""

    @property
    def seconds(self) -> float:
        """The median turn."""
        return statistics.median(map(sum, self.stages))

    def stage(self, index: int) -> float:
        """The median of one stage."""
        return statistics.median(turn[index] for turn in self.stages)


class Clock:
    """Times stages of work on one device.

    On CUDA the last-level cache is overwritten before each turn, and the card sleeps while its host
    queues the work, so that events see no gap that only a slow host makes.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._trash = device, torch.empty(0)
        if device.type == "cuda":
            found = torch.cuda.get_device_properties(device)
            size = 4 * getattr(found, "L2_cache_size", 2**26)
            self._trash = torch.empty(size, dtype=torch.uint8, device=device)
            self._cycles = self._cycles_per_second()

    def turn(
        self, stages: Sequence[Callable[[], object]], sleep: float
    ) -> tuple[list[float], float]:
        """Seconds of each stage, one after the other, and of the host."""
        if self.device.type != "cuda":
            return self._on_host(stages)
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(len(stages) + 1)]
        self._trash.zero_()
        torch.cuda._sleep(int(min(sleep, MOST_SLEEP) * self._cycles))
        started = perf_counter()
        marks[0].record()
        for stage, mark in zip(stages, marks[1:], strict=True):
            stage()
            mark.record()
        host = perf_counter() - started
        marks[-1].synchronize()
        return [a.elapsed_time(b) / 1e3 for a, b in pairwise(marks)], host

    def _on_host(self, stages: Stages) -> tuple[list[float], float]:
        times = [perf_counter()]
        for stage in stages:
            stage()
            times.append(perf_counter())
        return [b - a for a, b in pairwise(times)], times[-1] - times[0]

    def _cycles_per_second(self) -> float:
        """Of the counter that ``_sleep`` waits for."""
        cycles, marks = 10_000_000, [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        marks[0].record()
        torch.cuda._sleep(cycles)
        marks[1].record()
        torch.cuda.synchronize()
        return 1e3 * cycles / marks[0].elapsed_time(marks[1])


def take_turns(
    works: Mapping[str, Stages],
    clock: Clock,
    *,
    repeats: int,
    warm_up: int = 2,
) -> dict[str, Times]:
    """``repeats`` turns of every work, in an order that rotates."""
    names, sleep = list(works), dict.fromkeys(works, MOST_SLEEP)
    for name in names:
        for _ in range(warm_up):
            _, host = clock.turn(works[name], sleep[name])
            sleep[name] = 1.5 * host
    times = {name: Times() for name in names}
    for turn in range(repeats):
        for i in range(len(names)):
            name = names[(i + turn) % len(names)]
            stages, host = clock.turn(works[name], sleep[name])
            times[name].stages.append(stages)
            times[name].host.append(host)
    return times


def forward(run: Run, inputs: tuple[Tensor, ...]) -> Stages:
    """The forward pass, as for inference."""
    return [partial(torch.no_grad()(run), *inputs)]


def training(run: Run, inputs: tuple[Tensor, ...]) -> Stages:
    """The forward pass as for training, then the backward pass to every input."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.no_grad():
        d_out = torch.randn_like(run(*inputs))
    made: list[Tensor] = []

    def ahead() -> None:
        made.append(run(*leaves))

    def back() -> None:
        torch.autograd.grad(made.pop(), leaves, d_out)

    return [ahead, back]


def ceilings(clock: Clock) -> Ceilings:
    """Measured now, on the same card."""
    source = torch.randn(GIBI // 4, device=clock.device)
    target = torch.empty_like(source)
    a, b = (
        torch.randn(MATRIX, MATRIX, device=clock.device, dtype=torch.bfloat16) for _ in range(2)
    )
    works = {"copy": [partial(target.copy_, source)], "product": [partial(torch.mm, a, b)]}
    times = take_turns(works, clock, repeats=10, warm_up=3)
    copied, product = 2 * source.nbytes, 2 * MATRIX**3
    return Ceilings(copied / times["copy"].seconds, product / times["product"].seconds)
