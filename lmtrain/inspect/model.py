"""The table of a model: parameters, FLOPs and state, block by block."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.table import Table

from lmtrain.models.pattern import LETTERS

if TYPE_CHECKING:
    from lmtrain.inspect.case import Case
    from lmtrain.models.accounting import Cost, ModelCost
    from lmtrain.models.pattern import BlockSpec


def table(case: Case) -> Table:
    """A row for each run of equal blocks, and one for the forward pass of a teacher.

    FLOPs, and the state that generation carries, are those of a document of
    ``curriculum.max_length`` tokens; what is counted stands in ``models.accounting``.
    """
    model, cost, length = case.config.model, case.cost, case.length
    rows = Table(
        title=f"{model.name}: {model.pattern} in {len(cost.blocks)} blocks, "
        f"vocabulary {model.vocab_size:,}, documents of {length:,} tokens"
    )
    rows.add_column("block", no_wrap=True)
    rows.add_column("what")
    for heading in ("parameters", "FLOPs/token", "state"):
        rows.add_column(heading, justify="right", no_wrap=True)
    rows.add_row("", "embedding", *_cells(cost.embedding, length))
    for numbers, spec, part in _runs(cost):
        rows.add_row(numbers, _what(spec), *_cells(part, length))
    rows.add_row("", "norm, output head", *_cells(cost.head, length), end_section=True)
    rows.add_row("", "all, forward", *_cells(cost.total, length))
    training = cost.training_flops_per_token([length])
    rows.add_row("", "all, forward and backward", "", short(training), "")
    if case.taught:
        rows.add_row("", "teacher, forward", *_cells(case.taught.cost.total, length)[:2], "")
    return rows


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
    return f"{cost.parameters:,}", short(flops) if flops else "", size(state) if state else ""


def short(number: float) -> str:
    """``1.23 G`` and the like."""
    for unit in ("", " k", " M", " G", " T"):
        if number < 1000:  # noqa: PLR2004
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} P"


def size(number: float) -> str:
    """``1.23 MiB`` and the like."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:  # noqa: PLR2004
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:.4g} TiB"
