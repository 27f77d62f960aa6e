"""`lmtrain bench what=curriculum`: what context costs, decomposed and concatenated.

Decomposed documents are drawn by grow_p2; concatenated ones run on and are cut at one length. All
steps have the same tokens and the same model. A step of every document length is timed by itself,
forward, loss and backward; that of a curriculum is their mean by its shares over one pass. Besides
the shares that the documents of the store have, decomposition is told for equal shares of all
lengths, the published mixture; the same steps make it up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from lmtrain.bench.config import BenchConfig, BenchDevice
from lmtrain.bench.record import write_record
from lmtrain.bench.sizes import of_size, size_problems
from lmtrain.bench.turns import take_turns, timed
from lmtrain.config import require
from lmtrain.data.config import DataConfig
from lmtrain.data.curriculum_config import CurriculumConfig, CurriculumName, ViewName
from lmtrain.data.plan import Plan
from lmtrain.data.rows import move_row, read_row
from lmtrain.data.store import open_store
from lmtrain.models.accounting import TRAINING, ModelCost, visible_pairs
from lmtrain.models.decoder import Decoder
from lmtrain.models.init import initialize
from lmtrain.ops.backend import bind
from lmtrain.parallelize import rematerialize
from lmtrain.settings.engine import Remat

if TYPE_CHECKING:
    from lmtrain.batch import Batch
    from lmtrain.data.store import Store
    from lmtrain.models.config import ModelConfig

FACTOR = 4
"""Decomposed pieces may be this much longer, says the claim, for about the same time."""

DECOMPOSED, EQUAL, CONCATENATED = "decomposed", "decomposed in equal shares", "concatenated"

ABOUT = 1.1
"""What is about the same: at most this many times."""


@dataclass(frozen=True)
class Sample:
    """The step of one bucket: its share of all steps, and documents of ``lengths``."""

    share: float
    context: float
    lengths: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one curriculum costs at one longest length."""

    name: str
    length: int
    """Longest pieces."""
    shares: dict[int, float]
    """Part of the steps whose documents have this length."""
    context: float
    """Tokens that a token sees before it, on average."""
    attention_flops: float
    """For a token, forward and backward: visible pairs only."""
    flops: float
    """For a token, forward and backward: all."""
    seconds: float
    """Of a step."""
    tokens_per_second: float


def bench_curriculum(config: BenchConfig) -> tuple[list[Measurement], list[str]]:
    """Measure, print a table and verdicts, and write ``config.out`` when it is set.

    Raises:
        ValueError: the configuration has problems, or the store has no such pieces.
    """
    require([*config.check(), *_model_problems(config)])
    console, store = Console(), open_store(DataConfig(source=config.data_source))
    model, notes = _model_config(config, store.vocab_size), list[str]()
    batches: dict[tuple[int, ...], Batch] = {}
    samples: dict[tuple[ViewName, int], list[Sample]] = {}
    for length in sorted(config.lengths):
        for view in (ViewName.decompose, ViewName.concat):
            plan = _plan(store, view, length, config)
            notes += [f"{view} at {length:,}: {warning}" for warning in plan.warnings]
            samples[view, length] = _samples(store, plan, batches, config)
    with console.status(f"timing steps of {len(batches)} kinds of documents"):
        seconds = _time(model, batches, config)
    cost = ModelCost.of(model)
    found = [
        measured(name, length, each, seconds, cost)
        for (view, length), every in samples.items()
        for name, each in _mixtures(view, every).items()
    ]
    console.print(_table(found, config))
    notes = [*verdicts(found), *notes]
    for note in notes:
        console.print(note, highlight=False, soft_wrap=True)
    write_record(config, [asdict(m) for m in found], notes)
    return found, notes


def measured(
    name: str,
    length: int,
    samples: Sequence[Sample],
    seconds: dict[tuple[int, ...], float],
    cost: ModelCost,
) -> Measurement:
    """The means over the steps of a curriculum, from those of its samples."""
    total = sum(s.share * seconds[s.lengths] for s in samples)
    return Measurement(
        name=name,
        length=length,
        shares={max(s.lengths): s.share for s in samples},
        context=sum(s.share * s.context for s in samples),
        attention_flops=sum(s.share * attention_flops(cost, s.lengths) for s in samples),
        flops=sum(s.share * cost.training_flops_per_token(s.lengths) for s in samples),
        seconds=total,
        tokens_per_second=sum(samples[0].lengths) / total,
    )


def _mixtures(view: ViewName, samples: list[Sample]) -> dict[str, list[Sample]]:
    if view == ViewName.concat:
        return {CONCATENATED: samples}
    equal = [replace(sample, share=1 / len(samples)) for sample in samples]
    return {DECOMPOSED: samples, EQUAL: equal}


def attention_flops(cost: ModelCost, lengths: Sequence[int]) -> float:
    """For a token, forward and backward, of the query-key pairs in documents of these lengths."""
    pairs = sum(n * visible_pairs(lengths, window) for window, n in cost.total.pair_flops)
    return TRAINING * pairs / sum(lengths)


def verdicts(found: Sequence[Measurement]) -> list[str]:
    """Whether long decomposed steps take about the time of short concatenated ones, a sentence for
    each pair of lengths that was measured."""
    short = {m.length: m for m in found if m.name == CONCATENATED}
    told: list[str] = []
    for mine in found:
        other = short.get(mine.length // FACTOR)
        if other and mine.name != CONCATENATED:
            ratio = mine.seconds / other.seconds
            told.append(
                f"{mine.name} at {mine.length:,} costs about what {CONCATENATED} at "
                f"{other.length:,} does: {'holds' if ratio <= ABOUT else 'does not hold'}, "
                f"{ratio:.2f} × the time and {mine.context / other.context:.2f} × the context"
            )
    return told or [
        f"no length is {FACTOR} times another one, so decomposed {FACTOR}L is not compared with "
        "concatenated L: give lengths like [1024,4096]"
    ]


def _model_problems(config: BenchConfig) -> list[str]:
    return size_problems(config) or _model_config(config, 1).check()


def _model_config(config: BenchConfig, vocabulary: int) -> ModelConfig:
    rows = -(-vocabulary // 64) * 64
    return replace(of_size(config), pattern=config.pattern, vocab_size=rows)


def _plan(store: Store, view: ViewName, length: int, config: BenchConfig) -> Plan:
    curriculum = CurriculumConfig(
        name=CurriculumName.grow_p2 if view == ViewName.decompose else CurriculumName.fixed,
        view=view,
        min_length=config.min_length,
        max_length=length,
    )
    try:
        return Plan.build(store, curriculum, seed=0, tokens_per_step=config.row)
    except ValueError as error:
        raise ValueError(str(error).removeprefix("train.")) from error


def _samples(
    store: Store, plan: Plan, batches: dict[tuple[int, ...], Batch], config: BenchConfig
) -> list[Sample]:
    """The first step of every bucket; its row goes into ``batches`` if there is none like it."""
    weights, found = plan.mixture.weights, list[Sample]()
    device = torch.device(config.device)
    for bucket, mix, weight in zip(plan.buckets, plan.mixture.mixes, weights, strict=True):
        draw = bucket.draw(mix.pieces(np.arange(config.row // bucket.length)))
        batch = read_row(store, draw, device=device)
        lengths = batch.layout.lengths
        if lengths not in batches:
            batches[lengths] = move_row(batch, device)
        found.append(Sample(weight / sum(weights), bucket.context, lengths))
    return found


def _time(
    model_config: ModelConfig, batches: dict[tuple[int, ...], Batch], config: BenchConfig
) -> dict[tuple[int, ...], float]:
    """Seconds of the median step of each row; the rows take turns."""
    if config.threads:
        torch.set_num_threads(config.threads)
    model, device = Decoder(model_config), torch.device(config.device)
    dtype = torch.float32 if config.device is BenchDevice.cpu else torch.bfloat16
    bind(model, config.ops, device, dtype)
    initialize(model, seed=0)
    rematerialize(model, Remat.full if config.remat else Remat.none)
    model.to(device)
    if config.device is BenchDevice.cuda:
        model.compute_dtype = dtype
    steps = [partial(_step, model, batch) for batch in batches.values()]
    turns = take_turns([partial(timed, step) for step in steps], config)
    return {
        lengths: median(turn.seconds for turn in mine)
        for lengths, mine in zip(batches, turns, strict=True)
    }


def _step(model: Decoder, batch: Batch) -> int:
    """Forward, loss and backward; returns the tokens."""
    loss = model(batch.tokens, batch.layout, batch.targets).total / len(batch.tokens)
    loss.backward()
    model.zero_grad()
    if batch.tokens.device.type == "cuda":
        torch.cuda.synchronize()
    return len(batch.tokens)


def _table(found: Sequence[Measurement], config: BenchConfig) -> Table:
    table = Table(
        title=f"{config.pattern} of size {config.size} on {config.device}, {config.row:,} tokens "
        f"a step, from {config.min_length} tokens"
    )
    table.add_column("documents")
    for heading in ("longest", "context", "attention", "step ms", "tokens/s", "speed"):
        table.add_column(heading, justify="right")
    slow = {m.length: m.tokens_per_second for m in found if m.name == CONCATENATED}
    for m in found:
        table.add_row(
            m.name,
            f"{m.length:,}",
            f"{m.context:,.0f}",
            f"{m.attention_flops / m.flops:.1%}",
            f"{1e3 * m.seconds:.1f}",
            f"{m.tokens_per_second:,.0f}",
            f"{m.tokens_per_second / slow[m.length]:.2f} ×",
            end_section=m.name == CONCATENATED,
        )
    return table
