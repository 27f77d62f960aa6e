"""What a device reaches in the kinds of work that make a step, measured in a second."""

from __future__ import annotations

import statistics
from functools import cache, partial
from time import perf_counter, process_time
from typing import TYPE_CHECKING

import torch

from lmtrain.layout import SequenceLayout
from lmtrain.ops.attention import attend
from lmtrain.ops.backend import choose
from lmtrain.ops.config import OpsConfig
from lmtrain.parallel import state_times
from lmtrain.parallel.links import Links, Rates
from lmtrain.parallel.shape import Block, RecurrentShape, Transition
from lmtrain.parallel.times import Machine

if TYPE_CHECKING:
    from collections.abc import Callable

    Clock = Callable[[Callable[[], object]], float]
    """Seconds of some work."""

REPEATS = 3


@cache
def probe(threads: int | None = None) -> Rates:
    """Of this machine's CPU, with so many threads; measured once.

    One thread is timed by the processor, so that what else runs does not count.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        clock = process_time if threads == 1 else perf_counter
        return rates(torch.device("cpu"), OpsConfig(), partial(_seconds, clock))
    finally:
        torch.set_num_threads(before)


def rates(device: torch.device, ops: OpsConfig, clock: Clock) -> Rates:
    """Of kernels forward, of large matrix products, of adding one tensor to another."""
    cuda = device.type == "cuda"
    tokens, heads, width = (16_384, 16, 128) if cuda else (1024, 4, 64)
    dtype = torch.bfloat16 if cuda else torch.float32
    layout = SequenceLayout.whole((0, tokens)).to(device)
    q = torch.randn(tokens, heads, width, device=device, dtype=dtype)
    k = torch.nn.functional.normalize(q.float(), dim=-1).to(dtype)
    beta = torch.rand(tokens, heads, device=device)
    total = torch.zeros(2**24 if cuda else 2**22, device=device)
    x = torch.randn(tokens, heads * width, device=device, dtype=dtype)
    weight = torch.randn(4 * heads * width, heads * width, device=device, dtype=dtype)
    rule, more = choose(ops, device).gated_delta, torch.ones_like(total)

    def rate(amount: float, work: Callable[[], object]) -> float:
        return amount / clock(torch.no_grad()(work))

    shape = RecurrentShape(heads, heads, width, width, Transition.matrix, 0, 1)
    flops = state_times.scan(shape, Block(layout, 1), Machine(Links(1, None, None), Rates(1, 1, 1)))
    return Rates(
        attention=rate(
            2 * tokens * (tokens + 1) * heads * width, lambda: attend(q, q, q, layout=layout)
        ),
        scan=rate(flops, lambda: rule.scan((q, k, q, -beta, beta), layout)),
        memory=rate(3 * total.nbytes, lambda: total.add_(more)),
        products=rate(2 * tokens * weight.numel(), lambda: x @ weight.mT),
    )


def _seconds(clock: Callable[[], float], work: Callable[[], object]) -> float:
    """The median of a few, after one that warms up."""
    times: list[float] = []
    for _ in range(REPEATS + 1):
        started = clock()
        work()
        times.append(clock() - started)
    return statistics.median(times[1:])
