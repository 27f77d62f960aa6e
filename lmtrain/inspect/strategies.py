"""The table of strategies: what each mixer of a model takes on rows of each length."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table

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
    """A row for each letter and length."""
    table = Table(
        title=f"Strategies of {sequence} processes a row, forward and backward of a layer"
    )
    table.add_column("", no_wrap=True)
    table.add_column("documents", justify="right", no_wrap=True)
    table.add_column("strategy", no_wrap=True)
    for heading in ("ranks", "sent", "added", "of a step"):
        table.add_column(heading, justify="right", no_wrap=True)
    before = None
    for letter, length, choice, share in sorted(choices, key=lambda c: (c.letter, c.length)):
        if before not in (None, letter):
            table.add_section()
        before = letter
        sent = f"{choice.bytes.total / 2**20:,.3g} MiB" if choice.degree > 1 else ""
        added = f"{1e3 * choice.seconds:,.3g} ms" if choice.degree > 1 else ""
        share_ = f"{share:.1%}" if choice.degree > 1 else ""
        table.add_row(letter, f"{length:,}", str(choice), str(choice.degree), sent, added, share_)
    return table
