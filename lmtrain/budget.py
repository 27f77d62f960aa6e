"""Which blocks keep how much, so that activations fit a share of what they would take."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from lmtrain.models.accounting import ModelCost
from lmtrain.models.activations import held
from lmtrain.settings.engine import Remat

if TYPE_CHECKING:
    from lmtrain.models.config import ModelConfig

LENGTH = 8192
"""Of the documents for which the cost of computing a block again is judged."""


class Kept(NamedTuple):
    """Bytes that a block keeps of a token, by what it computes again; FLOPs of all of it again."""

    none: int
    selective: int
    full: int
    flops: float


def choose(
    config: ModelConfig, budget: float, *, element: int = 4, fused: bool = False
) -> list[Remat]:
    """For each block ``none``, ``selective`` or ``full``; all together within the budget.

    What is cheap to compute again goes first: blocks become ``selective``, those first that gain
    most by it. Where all of them do not suffice, they become ``full``, those first that give most
    bytes for a FLOP. Of equal blocks the first in the stack go first: the backward pass begins with
    the last, and what it needs to compute an early one again is free by then.

    Args:
        config: of the model.
        budget: share of what blocks keep when nothing is computed again.
        element: bytes of an activation.
        fused: recurrences, convolutions and norms are kernels of a GPU.

    Raises:
        ValueError: even ``full`` keeps more.
    """
    blocks = kept(config, element=element, fused=fused)
    limit = budget * sum(each.none for each in blocks)
    if (least := sum(each.full for each in blocks)) > limit:
        share = least / sum(each.none for each in blocks)
        raise ValueError(
            f"engine.remat_budget={budget} is less than the inputs of the blocks, {share:.3f} of "
            "all that they keep: raise it, or say engine.remat=full"
        )
    chosen, sizes = [Remat.none] * len(blocks), [each.none for each in blocks]
    gains = sorted(range(len(blocks)), key=lambda i: blocks[i].selective - blocks[i].none)
    rates = sorted(
        range(len(blocks)), key=lambda i: (blocks[i].full - blocks[i].selective) / blocks[i].flops
    )
    for remat, order in ((Remat.selective, gains), (Remat.full, rates)):
        for i in order:
            if sum(sizes) <= limit:
                return chosen
            if (less := getattr(blocks[i], remat)) < sizes[i]:
                chosen[i], sizes[i] = remat, less
    return chosen


def kept(config: ModelConfig, *, element: int = 4, fused: bool = False) -> list[Kept]:
    """What every block keeps, by the formulas of `lmtrain.models.activations`."""
    found: list[Kept] = []
    config = replace(config, vocab_size=config.vocab_size or 1)  # blocks do not depend on it
    for spec, cost in ModelCost.of(config).blocks:
        part = held(spec, config, element=element, fused=fused)
        stream = config.d_model * element
        found.append(Kept(part.kept, part.products, stream, cost.flops_per_token([LENGTH])))
    return found
