"""Whole stacks over rows that all processes share: a training step, by pattern and strategies.

A step is forward, loss, backward and the sum of the gradients over all processes. Every process
holds all parameters, so that nothing but the strategies differs. ``serial`` stands for state
passing without a parallel scan: a rank waits for the state, scans, then hands its own on.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lmtrain.bench.config import BenchDevice
from lmtrain.bench.memory import memory_meter
from lmtrain.bench.parallel import sized
from lmtrain.bench.record import write_record
from lmtrain.bench.world import alone, joined, now, ranks_per_host, slowest
from lmtrain.config import require
from lmtrain.layout import SequenceLayout
from lmtrain.models.decoder import Decoder
from lmtrain.models.init import initialize
from lmtrain.models.mixers.gated_deltanet import GatedDeltaNet
from lmtrain.models.mixers.mamba2 import Mamba2
from lmtrain.ops.backend import bind
from lmtrain.ops.recurrence import empty_state
from lmtrain.parallel.collectives import Traffic
from lmtrain.parallel.config import ParallelConfig
from lmtrain.parallel.mesh import SequenceMesh
from lmtrain.parallel.strategy import Strategy
from lmtrain.parallelize import rematerialize, share_rows
from lmtrain.planner import planner
from lmtrain.settings.engine import Remat

if TYPE_CHECKING:
    from lmtrain.bench.config import BenchConfig
    from lmtrain.models.config import ModelConfig
    from lmtrain.ops.recurrence import Recurrence
    from lmtrain.parallel.collectives import Group

SERIAL = "serial"
VOCABULARY = 4096


@dataclass(frozen=True)
class Contender:
    """A stack, and the strategy of each of its letters; auto where none is named."""

    pattern: str
    strategies: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Contender:
        """Of ``GGGA G=lasp2 A=ring``."""
        pattern, *pairs = text.split()
        return cls(pattern, dict(pair.split("=", 1) for pair in pairs))

    def __str__(self) -> str:
        """As it was written."""
        return " ".join([self.pattern, *(f"{k}={v}" for k, v in self.strategies.items())])


@dataclass(frozen=True)
class Measurement:
    """A step of one stack; the slowest rank, or the one that needs most."""

    stack: str
    length: int
    ranks: int
    chosen: dict[str, str]
    """What runs for each letter."""
    seconds: list[float]
    """Every timed step."""
    sent: int
    """Bytes that all ranks sent each other for the row, forward and backward."""
    memory: int
    """Bytes at the peak of a rank beyond parameters and their gradients."""


def bench_rows(config: BenchConfig) -> list[Measurement]:
    """Measure, print a table on the first rank, and write ``config.out`` there when it is set.

    The stacks take turns. A row is one document of each of ``config.lengths``.

    Raises:
        ValueError: the configuration has problems.
    """
    contenders = [Contender.parse(text) for text in config.stacks]
    require([*config.check(), *_wrong(contenders, config), *alone(config)])
    with joined(config) as device:
        mesh = SequenceMesh.open(dist.get_world_size(), device, traffic := Traffic(), strided=True)
        runs = [_Run(contender, config, mesh, traffic) for contender in contenders]
        found: list[Measurement] = []
        for length in config.lengths:
            turns = [[run.step(length) for run in runs] for _ in range(_turns(config))]
            columns = zip(*turns[config.warm_up :], strict=True)
            found += [
                run.measurement(length, list(column))
                for run, column in zip(runs, columns, strict=True)
            ]
        if dist.get_rank() == 0:
            _tell(found, config)
    return found


def _turns(config: BenchConfig) -> int:
    return config.warm_up + config.repeats


def _wrong(contenders: list[Contender], config: BenchConfig) -> list[str]:
    problems: list[str] = []
    for contender in contenders:
        model, named = _model(contender, config), dict(contender.strategies)
        problems += model.check()
        chosen = [name for name in named.values() if name != SERIAL]
        unknown = sorted(set(chosen) - {*Strategy}) + sorted(named.keys() - set("AWMG"))
        if unknown:
            problems.append(
                f"stacks={contender}: {', '.join(unknown)} is no strategy or letter: write them "
                "like 'GGGA G=lasp2 A=ring'"
            )
    return problems


def _model(contender: Contender, config: BenchConfig) -> ModelConfig:
    model = sized(config)
    model.pattern, model.n_layers, model.vocab_size = contender.pattern, config.layers, VOCABULARY
    return model


class _Run:
    """A stack that is measured."""

    def __init__(
        self, contender: Contender, config: BenchConfig, mesh: SequenceMesh, traffic: Traffic
    ) -> None:
        self.contender, self.mesh, self.traffic = contender, mesh, traffic
        self.model_config = _model(contender, config)
        self.device = torch.device(config.device)
        parallel = ParallelConfig(sequence=mesh.size, links=config.links)
        for letter, name in contender.strategies.items():
            setattr(parallel.strategy, letter, Strategy.auto if name == SERIAL else Strategy(name))
        self.choosers = planner(
            self.model_config,
            parallel,
            device=config.device,
            ranks_per_host=ranks_per_host(),
            element=4 if config.device is BenchDevice.cpu else 2,
        )
        self.model = self._build(config)

    def _build(self, config: BenchConfig) -> Decoder:
        with torch.device("meta"):
            model = Decoder(self.model_config)
        cuda = config.device is BenchDevice.cuda
        bind(model, config.ops, self.device, torch.bfloat16 if cuda else torch.float32)
        model.to_empty(device=self.device)
        initialize(model, seed=0)
        rematerialize(model, Remat.full if config.remat else Remat.none)
        share_rows(model, self.choosers, self.mesh)
        if SERIAL in self.contender.strategies.values():
            _make_serial(model, self.mesh)
        if cuda:
            model.compute_dtype = torch.bfloat16
        return model

    def step(self, length: int) -> tuple[float, int, int]:
        """Seconds of the slowest rank, bytes of all, and most memory of one."""
        row = SequenceLayout.whole((0, length)).shard(self.mesh.rank, self.mesh.size)
        layout = row.to(self.device)
        draw = torch.Generator().manual_seed(length)
        tokens = torch.randint(VOCABULARY, (length,), generator=draw)
        tokens = tokens[layout.start : layout.stop].to(self.device)
        memory = memory_meter(BenchDevice(self.device.type))
        dist.barrier()
        self.traffic.sent, started = 0, now(self.device)
        loss = self.model(tokens, layout, tokens).total / length
        loss.backward()
        sent = torch.tensor(self.traffic.sent)
        for parameter in self.model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad = None
        seconds = slowest(now(self.device) - started)
        dist.all_reduce(sent)
        return seconds, int(sent), round(slowest(memory()))

    def measurement(self, length: int, steps: list[tuple[float, int, int]]) -> Measurement:
        """What the steps at this length come to."""
        layout = SequenceLayout.whole((0, length)).shard(0, self.mesh.size)
        chosen = {letter: str(choose(layout)) for letter, choose in self.choosers.items()}
        serial = {k: SERIAL for k, v in self.contender.strategies.items() if v == SERIAL}
        seconds, sent, memory = zip(*steps, strict=True)
        return Measurement(
            str(self.contender),
            length,
            self.mesh.size,
            chosen | serial,
            list(seconds),
            sent[-1],
            max(memory),
        )


def _make_serial(model: Decoder, mesh: SequenceMesh) -> None:
    """Let recurrences wait for their state."""
    for block in model.blocks:
        for mixer in block.mixers:  # type: ignore[union-attr]
            if isinstance(mixer, Mamba2 | GatedDeltaNet):
                mixer.kernel = partial(_serial, mixer.rule, mesh.block(mesh.size))


def _serial(
    rule: Recurrence[Any, Any, Any], group: Group, *inputs: Tensor, layout: SequenceLayout
) -> Tensor:
    state = _Receive.apply(inputs[2], empty_state(inputs), group)
    out, final = rule.scan(inputs, layout, state)
    return _Send.apply(out, final, group)  # type: ignore[return-value]


class _Receive(torch.autograd.Function):
    """The state from the rank before; its gradient goes back there."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, empty: Tensor, group: Group) -> Tensor:
        ctx.group, ctx.anchor = group, anchor.shape
        return group.receive(group.rank - 1, empty)() if group.rank else torch.zeros_like(empty)

    @staticmethod
    def backward(ctx: Any, d_state: Tensor) -> tuple[None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.group.rank:
            ctx.group.send(ctx.group.rank - 1, d_state)()
        return None, None, None


class _Send(torch.autograd.Function):
    """The state to the rank after; its gradient comes from there."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, final: Tensor, group: Group) -> Tensor:
        ctx.group = group
        ctx.save_for_backward(final)
        if group.rank + 1 < group.size:
            group.send(group.rank + 1, final)()
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (final,), group = ctx.saved_tensors, ctx.group
        last = group.rank + 1 == group.size
        d_final = torch.zeros_like(final) if last else group.receive(group.rank + 1, final)()
        return d_out, d_final, None


def _tell(found: list[Measurement], config: BenchConfig) -> None:
    Console().print(_table(found, config))
    write_record(config, [asdict(m) for m in found])


def _table(found: list[Measurement], config: BenchConfig) -> Table:
    table = Table(
        title=f"A step of {config.layers} blocks of size {config.size} on {config.device}, "
        f"{found[0].ranks} processes to a row: median seconds, MiB sent, MiB at the peak"
    )
    table.add_column("stack", min_width=10)
    table.add_column("runs", min_width=18)
    for heading in ("tokens", "s", "of first", "MiB", "peak"):
        table.add_column(heading, justify="right", no_wrap=True)
    for m in found:
        first = next(other for other in found if other.length == m.length)
        seconds, against = statistics.median(m.seconds), statistics.median(first.seconds)
        table.add_row(
            m.stack,
            ", ".join(f"{k} {v}" for k, v in m.chosen.items()),
            f"{m.length:,}",
            f"{seconds:.2f}",
            f"{seconds / against:.2f}",
            f"{m.sent / 2**20:.1f}",
            f"{m.memory / 2**20:.0f}",
        )
    return table
