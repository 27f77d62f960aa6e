"""How fast ranks speak, and their kernels compute: two numbers a class of link, from many.

Every measured call is one of those that the strategies make, packing included. A message of
``n`` bytes takes ``latency + n / speed``; both are fitted to all calls of a class by least squares
of the relative error, because the smallest message takes a thousandth of the largest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from lmtrain.bench.record import record
from lmtrain.bench.world import alone, joined, ranks_per_host, seconds
from lmtrain.config import require
from lmtrain.parallel.collectives import Group, Traffic
from lmtrain.parallel.links import Link, Links, Rates, write_links
from lmtrain.parallel.mesh import SequenceMesh
from lmtrain.probe import rates

if TYPE_CHECKING:
    from collections.abc import Callable

    from lmtrain.bench.config import BenchConfig

FASTEST = Link(1e-7, 1e13)
"""Nothing is believed to be faster: what a fit of noise is cut off at."""


class Call(NamedTuple):
    """One call on every rank at once."""

    operation: str
    messages: int
    """One after the other."""
    size: int
    """Bytes that a rank sends over links of the class, in all."""
    seconds: float


@dataclass(frozen=True)
class Speeds:
    """What was measured, and what follows from it."""

    calls: dict[str, list[Call]]
    """By class of link."""
    links: Links
    rates: Rates


def bench_links(config: BenchConfig) -> Speeds:
    """Measure, print a table on the first rank, and write ``config.out`` there when it is set.

    Raises:
        ValueError: the configuration has problems, or hosts have different numbers of processes.
    """
    require([*config.check(), *alone(config)])
    with joined(config) as device:
        world, near = dist.get_world_size(), ranks_per_host()
        mesh = SequenceMesh.open(world, device, Traffic())
        calls: dict[str, list[Call]] = {}
        if near > 1:
            calls["inside"] = _measure(mesh.block(near), 1, near, config)
        if world > near:
            calls["across"] = _measure(mesh.block(world), near, near, config)
        fitted = {kind: fit(found) for kind, found in calls.items()}
        links = Links(near, fitted.get("inside"), fitted.get("across"))
        reached = rates(device, config.ops, lambda work: seconds(work, config, device))
        found = Speeds(calls, links, reached)
        if dist.get_rank() == 0:
            _tell(found, config)
    return found


def fit(calls: list[Call]) -> Link:
    """Latency and speed that explain the calls best."""
    taken = torch.tensor([call.seconds for call in calls], dtype=torch.float64)[:, None]
    terms = torch.tensor([(c.messages, c.size) for c in calls], dtype=torch.float64)
    scale, ones = terms.amax(0), torch.ones_like(taken)
    solved = torch.linalg.lstsq(terms / scale / taken, ones).solution[:, 0] / scale
    latency, pace = solved.tolist()
    if latency < FASTEST.latency_seconds:  # noise: a line through the origin
        latency = FASTEST.latency_seconds
        pace = torch.linalg.lstsq(terms[:, 1:] / scale[1] / taken, ones).solution.item() / scale[1]
    slowest = 1 / FASTEST.bytes_per_second
    return Link(latency, 1 / max(float(pace), slowest))


def _measure(group: Group, shift: int, near: int, config: BenchConfig) -> list[Call]:
    """Each operation at each size: to the rank ``shift`` after this one, and to all."""
    return [
        Call(operation, messages, sent, seconds(partial(_finish, start), config, group.device))
        for size in config.sizes
        for operation, messages, sent, start in _operations(group, shift, near, size // 8 * 8)
    ]


def _operations(
    group: Group, shift: int, near: int, size: int
) -> list[tuple[str, int, int, Callable[[], Callable[[], object]]]]:
    """Names, messages one after the other, bytes sent, and what starts each.

    All messages of an all-to-all leave at once; those to the ``near`` ranks of a host do not count
    where there are others.
    """
    ranks, others = group.size, group.size - 1
    far = others if near == ranks else ranks - near
    x = torch.zeros(size, dtype=torch.uint8, device=group.device)
    spec = [((size,), x.dtype)]
    to, source = (group.rank + shift) % ranks, (group.rank - shift) % ranks
    return [
        ("message", 1, size, partial(group.exchange, [(to, [x])], [(source, spec)])),
        ("all_gather", others, others * size, partial(group.all_gather, x)),
        ("all_to_all", 1, far * size, partial(group.all_to_all, [[x]] * ranks, [spec] * ranks)),
    ]


def _finish(start: Callable[[], Callable[[], object]]) -> object:
    return start()()


def _tell(found: Speeds, config: BenchConfig) -> None:
    table = Table(title=f"Links of {found.links.ranks_per_host} processes a host, {config.device}")
    table.add_column("class", no_wrap=True)
    table.add_column("operation", no_wrap=True)
    for heading in ("bytes", "ms", "fitted ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for kind, calls in found.calls.items():
        link = found.links.between(inside=kind == "inside")
        for call in calls:
            fitted = link.seconds(call.size, call.messages)
            numbers = f"{call.size:,}", f"{1e3 * call.seconds:.3g}", f"{1e3 * fitted:.3g}"
            table.add_row(kind, call.operation, *numbers)
        table.add_section()
    console = Console()
    console.print(table)
    for kind in found.calls:
        link = found.links.between(inside=kind == "inside")
        console.print(
            f"{kind}: {1e6 * link.latency_seconds:,.3g} µs and "
            f"{link.bytes_per_second / 1e9:,.3g} GB/s"
        )
    for name, rate in asdict(found.rates).items():
        console.print(f"{name}: {rate / 1e9:,.3g} {'GB' if name == 'memory' else 'GFLOP'}/s")
    if config.out:
        calls = [{"class": kind, **c._asdict()} for kind, made in found.calls.items() for c in made]
        write_links(Path(config.out), found.links, found.rates, record(config, calls))
