"""The table of strategies: what each mixer of a model takes on rows of each length."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table

from lmtrain.inspect.model import size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lmtrain.inspect.case import Case
    from lmtrain.parallel.cost import Choice


class Planned(NamedTuple):
    """What the mixers of one letter do on rows of documents of one length."""

    letter: str
    length: int
    choice: Choice
    share: float
    """Of a step: what the strategy adds in all layers, over that and an equal share of the work."""


def planned(case: Case) -> list[Planned]:
    """The choices of a run, by length of document and letter of the pattern.

    The work is counted at the speed of attention.

    Raises:
        ValueError: the links cannot be read, a row does not divide, or a forced strategy cannot
            serve its mixer.
    """
    config, sequence = case.config, case.config.parallel.sequence
    found: list[Planned] = []
    for length in (n for n in config.curriculum.drawn_lengths if case.row % n == 0):
        other = case.but(length=length)
        added = {k: case.layers[k] * choice.seconds for k, choice in other.strategies.items()}
        flops = case.cost.training_flops_per_token([length]) * case.row / sequence
        step = flops / case.hardware.rates.attention + sum(added.values())
        found += [Planned(k, length, c, added[k] / step) for k, c in other.strategies.items()]
    return found


def describe(choices: Iterable[Planned], sequence: int) -> Table:
    """A row for each letter and length; one for all lengths at which nothing is sent."""
    table = Table(
        title=f"Strategies of {sequence} processes a row, forward and backward of a layer"
    )
    table.add_column("", no_wrap=True)
    table.add_column("documents", justify="right")
    table.add_column("strategy")
    for heading in ("ranks", "sent", "added"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("of a step", justify="right")
    rows = sorted(choices, key=lambda c: (c.letter, c.length))
    for _, of_letter in groupby(rows, key=lambda c: c.letter):
        for alone, run in groupby(of_letter, key=lambda c: c.choice.degree == 1):
            for group in [list(run)] if alone else [[row] for row in run]:
                table.add_row(*_cells(group))
        table.add_section()
    return table


def _cells(group: list[Planned]) -> tuple[str, ...]:
    """Of one length, or of neighbours at which nothing is sent."""
    letter, length, choice, share = group[0]
    lengths = f"{length:,}" if len(group) == 1 else f"{length:,} to {group[-1].length:,}"
    if choice.degree == 1:
        return letter, lengths, str(choice), "1", "", "", ""
    sent, added = size(choice.bytes.total), f"{1e3 * choice.seconds:,.3g} ms"
    return letter, lengths, str(choice), str(choice.degree), sent, added, f"{share:.1%}"
