"""`lmtrain inspect`: what a composed model costs, layer by layer, before any run."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table

from lmtrain.config import RunConfig, require
from lmtrain.data.sources import open_data
from lmtrain.inspect_parallel import describe, planned
from lmtrain.models.accounting import ModelCost
from lmtrain.models.pattern import LETTERS
from lmtrain.settings.engine import Precision, Remat

if TYPE_CHECKING:
    from lmtrain.data.config import DataConfig
    from lmtrain.models.accounting import Cost
    from lmtrain.models.pattern import BlockSpec


def inspect(config: RunConfig) -> Group:
    """A table of the model's layers, a sentence on the memory of training it, and strategies.

    FLOPs, and the state that generation carries, are those of a document of
    ``curriculum.max_length`` tokens; what is counted stands in ``models.accounting``.

    Raises:
        ValueError: the configuration has problems, or the token store cannot be opened.
    """
    shared = config.parallel.check(config.launch.nproc * config.parallel.sequence)
    require([*config.model.check(), *config.curriculum.check(), *config.data.check(), *shared])
    config = config.resolved(config.model.vocab_size or _vocabulary(config.data))
    cost = ModelCost.of(config.model)
    parts = [_table(config, cost), _memory(config, cost)]
    if config.parallel.sequence > 1:
        parts.append(describe(planned(config, cost), config.parallel.sequence))
    return Group(*parts)


def _vocabulary(data: DataConfig) -> int:
    """Token ids of the data; the embedded corpus is not made for that."""
    embedded = data.source == "stdlib" and not data.sources
    return data.vocab_size if embedded else open_data(data).vocab_size


def _table(config: RunConfig, cost: ModelCost) -> Table:
    model, length = config.model, config.curriculum.max_length
    table = Table(
        title=f"{model.name}: {model.pattern} in {len(cost.blocks)} blocks, "
        f"vocabulary {model.vocab_size:,}, documents of {length:,} tokens"
    )
    table.add_column("block", no_wrap=True)
    table.add_column("what")
    for heading in ("parameters", "FLOPs/token", "state"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("", "embedding", *_cells(cost.embedding, length))
    for numbers, spec, part in _runs(cost):
        table.add_row(numbers, _what(spec), *_cells(part, length))
    table.add_row("", "norm, output head", *_cells(cost.head, length), end_section=True)
    table.add_row("", "all, forward", *_cells(cost.total, length))
    training = cost.training_flops_per_token([length])
    table.add_row("", "all, forward and backward", "", _short(training), "")
    return table


def _runs(cost: ModelCost) -> list[tuple[str, BlockSpec, Cost]]:
    """Blocks, with neighbours of one kind in one row: their numbers, and the cost of each."""
    rows: list[tuple[str, BlockSpec, Cost]] = []
    for _, run in groupby(enumerate(cost.blocks), key=lambda block: block[1][0]):
        blocks = list(run)
        first, last = blocks[0][0], blocks[-1][0]
        numbers = str(first) if first == last else f"{first}-{last}, each"
        rows.append((numbers, *blocks[0][1]))
    return rows


def _what(spec: BlockSpec) -> str:
    parts = [" beside ".join(LETTERS[letter] for letter in spec.mixers)] if spec.mixers else []
    return ", ".join(parts + ["mlp"] * spec.mlp)


def _cells(cost: Cost, length: int) -> tuple[str, str, str]:
    state = cost.state_bytes(length)
    flops = cost.flops_per_token([length])
    return f"{cost.parameters:,}", _short(flops) if flops else "", _bytes(state) if state else ""


def _memory(config: RunConfig, cost: ModelCost) -> str:
    processes = max(config.launch.nproc, config.parallel.sequence)
    row = config.train.tokens_per_step // (config.train.accumulate * processes)
    needed = cost.training_bytes(
        row,
        remat=config.engine.remat is Remat.block,
        bf16=config.engine.precision is Precision.bf16,
    )
    return (
        f"Training on {row:,} tokens a process needs about {_bytes(needed)}, AdamW included "
        f"(engine.remat={config.engine.remat}, engine.precision={config.engine.precision})."
    )


def _short(number: float) -> str:
    """``1.23 G`` and the like."""
    for unit in ("", " k", " M", " G", " T"):
        if number < 1000:  # noqa: PLR2004
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} P"


def _bytes(number: float) -> str:
    """``1.23 MiB`` and the like."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:  # noqa: PLR2004
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:.4g} TiB"
