"""The table of strategies: what each mixer of a model takes on rows of each length."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table

from lmtrain.layout import SequenceLayout
from lmtrain.parallel.links import known
from lmtrain.planner import planner
from lmtrain.settings.engine import Device, Precision
from lmtrain.shapes import layers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lmtrain.config import RunConfig
    from lmtrain.models.accounting import ModelCost
    from lmtrain.parallel.cost import Choice

RANKS_PER_HOST = 8
"""Of hosts that were not measured."""


class Planned(NamedTuple):
    """What the mixers of one letter do on rows of documents of one length."""

    letter: str
    length: int
    choice: Choice
    share: float
    """Of a step: what the strategy adds in all layers, over that and an equal share of the work."""


def planned(config: RunConfig, cost: ModelCost) -> list[Planned]:
    """The choices of a run, by length of document and letter of the pattern.

    Rows are those of ``launch.nproc`` processes, or of the fewest that share one. The work is
    counted at the speed of attention.

    Raises:
        ValueError: the links cannot be read, a row does not divide, or a forced strategy cannot
            serve its mixer.
    """
    sequence, device = config.parallel.sequence, _device(config)
    choosers = planner(
        config.model,
        config.parallel,
        device=device,
        ranks_per_host=RANKS_PER_HOST,
        element=2 if config.engine.precision is Precision.bf16 else 4,
    )
    _, rates = known(config.parallel.links, device, RANKS_PER_HOST)
    rows = config.train.accumulate * max(1, config.launch.nproc // sequence)
    row, counts = config.train.tokens_per_step // rows, layers(config.model)
    found: list[Planned] = []
    for length in (n for n in config.curriculum.drawn_lengths if row % n == 0):
        layout = SequenceLayout.whole(range(0, row + 1, length))
        chosen = {letter: choose(layout) for letter, choose in choosers.items()}
        added = {letter: counts[letter] * choice.seconds for letter, choice in chosen.items()}
        flops = cost.training_flops_per_token([length]) * row / sequence
        step = flops / rates.attention + sum(added.values())
        found += [Planned(k, length, choice, added[k] / step) for k, choice in chosen.items()]
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


def _device(config: RunConfig) -> str:
    if config.engine.device is not Device.auto:
        return config.engine.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
