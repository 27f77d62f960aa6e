"""Every strategy of sequence parallelism on one layer: time, bytes on the wire, memory.

A row is one document, so that every strategy has its full work; the layer is a mixer with its
projections and its convolution. Bytes are counted where messages leave, beside the formula.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from lmtrain.bench.config import BenchDevice
from lmtrain.bench.memory import memory_meter
from lmtrain.bench.record import write_record
from lmtrain.bench.sizes import of_size, size_problems
from lmtrain.bench.world import alone, joined, now, ranks_per_host, slowest
from lmtrain.config import require
from lmtrain.layout import SequenceLayout
from lmtrain.models.decoder import build_mixer
from lmtrain.models.pattern import LETTERS
from lmtrain.ops import backend
from lmtrain.parallel.collectives import Traffic
from lmtrain.parallel.cost import Choice, choose
from lmtrain.parallel.links import known
from lmtrain.parallel.mesh import SequenceMesh, divisors
from lmtrain.parallel.strategy import FITS, Strategy
from lmtrain.parallelize import bind
from lmtrain.shapes import shape

if TYPE_CHECKING:
    from torch import nn

    from lmtrain.bench.config import BenchConfig
    from lmtrain.models.config import ModelConfig

MEBI = 2**20


@dataclass(frozen=True)
class Measurement:
    """One layer on rows of one length; the slowest rank, or the one that sends or needs most."""

    letter: str
    length: int
    """Tokens of the row."""
    degree: int
    """Processes that share it."""
    strategy: str
    forward: float
    """Seconds."""
    backward: float
    sent: tuple[int, int]
    """Bytes, forward and backward."""
    formula: tuple[int, int]
    """The same as the cost model counts them, without what aligns packed tensors."""
    exposed: float
    """Seconds that the cost model says the strategy adds."""
    memory: int
    """Bytes at the peak beyond the layer and its input."""


class _Case(NamedTuple):
    letter: str
    length: int
    choice: Choice


def bench_strategies(config: BenchConfig) -> list[Measurement]:
    """Measure, print a table on the first rank, and write ``config.out`` there when it is set.

    A strategy that cannot serve a case is named with its reason instead.

    Raises:
        ValueError: the configuration has problems.
    """
    require([*config.check(), *_wrong(config), *alone(config)])
    model = sized(config)
    with joined(config) as device:
        cases, refused = _cases(model, config)
        traffic = Traffic()
        meshes = {
            degree: SequenceMesh.open(degree, device, traffic, strided=True)
            for degree in sorted({case.choice.degree for case in cases})
        }
        measurements = [
            _measure(case, model, config, meshes[case.choice.degree], traffic) for case in cases
        ]
        if dist.get_rank() == 0:
            _tell(measurements, refused, config)
    return measurements


def _wrong(config: BenchConfig) -> list[str]:
    letters, strategies = set(config.letters) - LETTERS.keys(), set(config.strategies) - {*Strategy}
    problems: list[str] = []
    if letters or not config.letters:
        problems.append(f"letters={config.letters} must be some of {''.join(LETTERS)}")
    if strategies:
        known = ", ".join(dict.fromkeys(s for fitting in FITS.values() for s in fitting))
        problems.append(f"strategies={sorted(strategies)} are unknown: choose some of {known}")
    return problems + size_problems(config)


def sized(config: BenchConfig) -> ModelConfig:
    """The mixers of ``config.size``."""
    model = of_size(config)
    model.sliding_window.window = config.window
    require(model.check())
    return model


def _cases(model: ModelConfig, config: BenchConfig) -> tuple[list[_Case], list[str]]:
    """What can be measured, and why the rest cannot."""
    world, cases, refused = dist.get_world_size(), list[_Case](), list[str]()
    degrees = config.degrees or sorted({1, world})
    if wrong := [n for n in degrees if n not in divisors(world)]:
        raise ValueError(f"degrees={wrong} do not divide the {world} processes: choose divisors")
    links, rates = known(config.links, config.device, ranks_per_host())
    element = 4 if config.device is BenchDevice.cpu else 2
    for letter, length, degree in product(config.letters, config.lengths, degrees):
        fitting = [s for s in FITS[letter] if not config.strategies or s in config.strategies]
        mixer, found = shape(letter, model), dict[str, Choice]()
        for strategy in fitting if degree > 1 else [Strategy.auto]:
            try:
                choice = choose(mixer, (0, length), degree, links, rates, strategy, element=element)
                found[str(choice)] = choice  # usp without a ring is ulysses
            except ValueError as error:
                refused.append(f"{length} tokens, {degree} processes: {error}")
        cases += [_Case(letter, length, choice) for choice in found.values()]
    return cases, refused


def _measure(
    case: _Case, model: ModelConfig, config: BenchConfig, mesh: SequenceMesh, traffic: Traffic
) -> Measurement:
    letter, length, choice = case
    device, degree = torch.device(config.device), choice.degree
    dtype = torch.float32 if config.device is BenchDevice.cpu else torch.bfloat16
    mixer = build_mixer(letter, model).to(device)
    backend.bind(mixer, config.ops, device, dtype)
    _fill(mixer)
    if degree > 1:
        bind(mixer, lambda _: choice, mesh)
    layout = SequenceLayout.whole((0, length)).shard(mesh.rank, degree).to(device)
    x = torch.randn(len(layout), model.d_model, device=device, dtype=dtype, requires_grad=True)
    memory = memory_meter(config.device)
    turns = [_turn(mixer, x, layout, traffic) for _ in range(config.warm_up + config.repeats)]
    needed = memory()
    forward, backward = zip(*(turn.seconds for turn in turns[config.warm_up :]), strict=True)
    return Measurement(
        letter,
        length,
        degree,
        str(choice),
        statistics.median(forward),
        statistics.median(backward),
        sent=turns[-1].sent,
        formula=(choice.bytes.forward, choice.bytes.backward),
        exposed=choice.seconds,
        memory=round(slowest(needed)),
    )


def _fill(mixer: nn.Module) -> None:
    """Numbers of an ordinary size, the same on every rank; their values change no time."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.normal_(std=0.02)


class _Turn(NamedTuple):
    seconds: tuple[float, float]
    sent: tuple[int, int]


def _turn(mixer: nn.Module, x: torch.Tensor, layout: SequenceLayout, traffic: Traffic) -> _Turn:
    """Forward and backward, of which every rank begins the first together."""
    dist.barrier()
    traffic.sent, started = 0, now(x.device)
    out = mixer(x, layout)
    forward, sent = now(x.device), traffic.sent
    out.backward(torch.ones_like(out))
    backward, after = now(x.device), traffic.sent - sent
    return _Turn(
        (slowest(forward - started), slowest(backward - forward)),
        (round(slowest(sent)), round(slowest(after))),
    )


def _tell(measurements: list[Measurement], refused: list[str], config: BenchConfig) -> None:
    console = Console()
    console.print(_table(measurements, config))
    for reason in refused:
        console.print(f"not measured, {reason}", highlight=False, soft_wrap=True)
    write_record(config, [asdict(m) for m in measurements], refused)


def _table(measurements: list[Measurement], config: BenchConfig) -> Table:
    table = Table(title=f"One layer of size {config.size} on {config.device}, median, slowest rank")
    for heading in ("", "strategy"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ranks", "tokens", "fwd ms", "bwd ms", "MiB sent", "formula", "peak"):
        table.add_column(heading, justify="right", no_wrap=True)
    before = None
    for m in measurements:
        if before not in (None, (m.letter, m.length)):
            table.add_section()
        before = m.letter, m.length
        table.add_row(
            m.letter,
            m.strategy,
            str(m.degree),
            f"{m.length:,}",
            f"{1e3 * m.forward:.1f}",
            f"{1e3 * m.backward:.1f}",
            f"{sum(m.sent) / MEBI:.2f}",
            f"{sum(m.formula) / MEBI:.2f}",
            f"{m.memory / MEBI:.0f}",
        )
    return table
