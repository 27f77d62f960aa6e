"""Which strategy a mixer should use on a row: the one that adds least to the time of its layer.

A pure function of the mixer's shape, of where documents start, and of measured or typical speeds,
so every rank comes to the same answer without asking.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from lmtrain.parallel.mesh import divisors
from lmtrain.parallel.options import Choice, factorise, option
from lmtrain.parallel.shape import AttentionShape, Block, RecurrentShape, Shape, blocks
from lmtrain.parallel.strategy import FITS, Strategy
from lmtrain.parallel.times import Machine

if TYPE_CHECKING:
    from lmtrain.parallel.links import Links, Rates


@dataclass(frozen=True)
class Refusal:
    """Why a strategy cannot serve a mixer on this row, and what to say instead."""

    strategy: Strategy
    reason: str
    remedy: str

    def __str__(self) -> str:
        """One sentence."""
        return f"{self.strategy} {self.reason}"


@lru_cache(1024)
def choose(
    shape: Shape,
    bounds: tuple[int, ...],
    ranks: int,
    links: Links,
    rates: Rates,
    forced: Strategy = Strategy.auto,
    *,
    element: int = 2,
) -> Choice:
    """The strategy with the least exposed time of forward and backward.

    Args:
        shape: of the mixer.
        bounds: where the documents of the row start, and its end.
        ranks: that share the row.
        links: between them.
        rates: of their kernels.
        forced: take this one; where no document leaves a span, none is needed.
        element: bytes of an activation.

    Raises:
        ValueError: the forced strategy cannot serve the mixer, the row does not divide by the
            ranks, or a link of this layout is not known.
    """
    found = blocks(bounds, ranks, element=element)
    if found[0].ranks == 1:
        return Choice(Strategy.local)
    on = Machine(links, rates)
    fitting = FITS[shape.letter]
    asked = fitting if forced is Strategy.auto else (forced,)
    tried = [_try(strategy, shape, found, on) for strategy in asked]
    refused = [answer for answer in tried if isinstance(answer, Refusal)]
    options = list(dict.fromkeys(answer for answer in tried if isinstance(answer, Choice)))
    if not options:
        first = refused[0]
        raise ValueError(f"parallel.strategy.{shape.letter}={first}: {first.remedy}")
    best = min(options, key=lambda choice: (choice.seconds, choice.bytes.total))
    slower = [_against(choice, best) for choice in options if choice is not best]
    return replace(best, against=(*slower, *map(str, refused)))


def _against(other: Choice, best: Choice) -> str:
    return (
        f"{other} would cost {1e3 * other.seconds:.3g} ms a layer, not {1e3 * best.seconds:.3g} ms"
    )


def _try(strategy: Strategy, shape: Shape, found: list[Block], on: Machine) -> Choice | Refusal:
    """What ``strategy`` comes to on the worst of the blocks."""
    refusal = _refuse(strategy, shape, found[0], on.links)
    if refusal:
        return refusal
    return max((option(strategy, shape, block, on) for block in found), key=lambda c: c.seconds)


def _refuse(strategy: Strategy, shape: Shape, block: Block, links: Links) -> Refusal | None:
    """Why not, if so."""
    ranks, fitting = block.ranks, FITS[shape.letter]
    if strategy not in fitting:
        known = ", ".join(fitting)
        return Refusal(strategy, f"does not serve mixer {shape.letter}", f"choose auto, {known}")
    if strategy is Strategy.ulysses and ranks > shape.heads:
        best = max(n for n in divisors(ranks) if n <= shape.heads)
        return Refusal(
            strategy,
            f"gives every rank a head, but {ranks} ranks > {shape.heads} heads",
            f"choose auto, {_instead(shape, ranks, links)}, or parallel.sequence={best}",
        )
    if strategy is Strategy.zigzag and block.length % 2:
        return Refusal(
            strategy,
            f"cuts the span of a rank in two, but it has {block.length} tokens",
            f"choose ring, or train.tokens_per_step so that rows divide by {2 * ranks}",
        )
    if (
        strategy is Strategy.usp
        and isinstance(shape, AttentionShape)
        and factorise(shape, ranks, links)[0] == 1
    ):
        return Refusal(
            strategy,
            f"needs a divisor of {ranks} ranks above 1 that divides {shape.q_heads} query heads "
            f"and divides or is divided by {shape.kv_heads} key heads: there is none",
            "choose auto or ring",
        )
    return None


def _instead(shape: Shape, ranks: int, links: Links) -> str:
    """The nearest strategy to Ulysses where heads are too few."""
    if isinstance(shape, RecurrentShape):
        return Strategy.zeco
    u, v = factorise(shape, ranks, links)
    return f"{Strategy.usp} ({u}x{v})" if u > 1 else Strategy.ring
