"""Which strategy each mixer of a model takes, for rows of any documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from lmtrain.layout import SequenceLayout
from lmtrain.parallel.cost import Choice, choose
from lmtrain.parallel.links import Links, Rates, known
from lmtrain.shapes import shapes

if TYPE_CHECKING:
    from lmtrain.models.config import ModelConfig
    from lmtrain.parallel.config import ParallelConfig
    from lmtrain.parallel.shape import Shape
    from lmtrain.parallel.strategy import Strategy

Choose: TypeAlias = "Callable[[SequenceLayout], Choice]"
"""The strategy for a row, the same on all of its ranks; it looks at nothing but the documents."""


def planner(
    model: ModelConfig,
    parallel: ParallelConfig,
    *,
    device: str = "cpu",
    ranks_per_host: int = 8,
    element: int = 4,
) -> dict[str, Choose]:
    """What picks the strategy of each letter of the pattern.

    Args:
        model: the shapes of its mixers.
        parallel: ranks of a row, forced strategies, measured links.
        device: ``cpu`` or ``cuda``, for links that were not measured.
        ranks_per_host: for links that were not measured.
        element: bytes of an activation.

    Raises:
        ValueError: the file of links is missing or damaged.
    """
    links, rates = known(parallel.links, device, ranks_per_host)

    def of(letter: str, shape: Shape) -> Choose:
        forced = parallel.strategy.of(letter)
        return partial(_choose, shape, parallel.sequence, links, rates, forced, element)

    return {letter: of(letter, shape) for letter, shape in shapes(model).items()}


def problems(
    model: ModelConfig, parallel: ParallelConfig, *, row: int, lengths: Iterable[int]
) -> list[str]:
    """Why rows of ``row`` tokens in pieces of one of ``lengths`` cannot be shared, if so."""
    if parallel.sequence == 1:
        return []
    try:
        choosers = planner(model, parallel)
        rows = [SequenceLayout.whole(range(0, row + 1, length)) for length in lengths]
        for layout in rows:
            for choose_ in choosers.values():
                choose_(layout)
    except ValueError as error:
        return [str(error)]
    return []


def _choose(
    shape: Shape,
    ranks: int,
    links: Links,
    rates: Rates,
    forced: Strategy,
    element: int,
    layout: SequenceLayout,
) -> Choice:
    return choose(shape, layout.bounds, ranks, links, rates, forced, element=element)
