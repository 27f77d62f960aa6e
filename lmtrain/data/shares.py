"""Shares: which part of a run's tokens every cell (source x bucket) gives.

Sources follow their weights, and buckets the lengths that the sources bring: a bucket's part of
the run is the mean, by weight, of its part of each source. Inside these totals ``global`` lets
every source follow its own lengths; ``bucket`` holds the weights inside every bucket, and departs
from them only where a cell cannot give that much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmtrain.data.config import MixScope

ROUNDS = 1000
CLOSE = 1e-7


@dataclass(frozen=True, kw_only=True, eq=False)
class Shares:
    """Parts of the run's tokens, summing to one: float64 ``[sources, buckets]``."""

    parts: NDArray[np.float64]
    limited: bool = False
    """Whether the tokens that the run may take from a cell decided about them."""

    @property
    def buckets(self) -> NDArray[np.float64]:
        """``[buckets]`` part of each bucket."""
        return self.parts.sum(0)

    def within(self, bucket: int) -> list[float]:
        """Part of each source in the tokens of a bucket."""
        here = self.parts[:, bucket]
        return (here / here.sum()).tolist()


def shares(
    supply: NDArray[np.int64],
    weights: Sequence[float],
    scope: MixScope,
    most: NDArray[np.float64] | None = None,
) -> Shares:
    """The parts of the cells.

    Args:
        supply: tokens in each cell, ``[sources, buckets]``; every source and bucket has some.
        weights: of the sources, summing to one.
        scope: where they hold.
        most: the part of the run that each cell may give, shaped like ``supply``; None is any.

    Raises:
        ValueError: ``bucket`` has no solution within ``most``.
    """
    wanted = np.array(weights)[:, None]
    own = wanted * supply / supply.sum(1, keepdims=True)
    if scope is MixScope.global_:
        return Shares(parts=own)
    free = _fit(wanted * own.sum(0), np.where(supply > 0, np.inf, 0.0), own)
    if most is None or (free <= most + CLOSE).all():
        return Shares(parts=free)
    return Shares(parts=_fit(free, np.where(supply > 0, most, 0.0), own), limited=True)


def _fit(
    start: NDArray[np.float64], most: NDArray[np.float64], own: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``start``, scaled by rows and columns until its sums are those of ``own``, within ``most``.

    ``own`` itself lies within any ``most`` that is in proportion to the supply, so there is a
    solution then (iterative proportional fitting, with limits).
    """
    parts = np.minimum(start, most)
    rows, columns = own.sum(1), own.sum(0)
    for _ in range(ROUNDS):
        for row, total in enumerate(rows):
            parts[row] = _scaled(parts[row], most[row], total)
        if _far(parts.sum(0), columns) < CLOSE:
            return parts
        for column, total in enumerate(columns):
            parts[:, column] = _scaled(parts[:, column], most[:, column], total)
    if _far(parts.sum(1), rows) > 1e-3:  # noqa: PLR2004  (slow, but near enough, is no error)
        raise ValueError(
            "data.mix_scope=bucket cannot hold the weights within data.sources.*.max_repetition: "
            "say data.mix_scope=global, or raise max_repetition, or lower train.steps"
        )
    return parts


def _far(sums: NDArray[np.float64], totals: NDArray[np.float64]) -> float:
    return float((np.abs(sums - totals) / totals).max())


def _scaled(
    parts: NDArray[np.float64], most: NDArray[np.float64], total: float
) -> NDArray[np.float64]:
    """``parts`` times one factor, none above ``most``, so that they sum to ``total``."""
    full = np.zeros(len(parts), np.bool_)
    while True:
        rest = parts[~full].sum()
        factor = (total - most[full].sum()) / rest if rest > 0 else 0.0
        scaled = np.where(full, most, parts * max(factor, 0.0))
        over = scaled > most
        if not over.any():
            return scaled
        full |= over
