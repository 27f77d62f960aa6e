"""The mixture of a run: how much of every source each bucket takes, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lmtrain.data.bucket import Bucket
from lmtrain.data.cells import begins, bucket_name, cell_fingerprints
from lmtrain.data.mix import Cell, Mix, Quotas
from lmtrain.data.replan import Used, order_names
from lmtrain.data.shares import shares
from lmtrain.data.sources import Sources

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lmtrain.data.replan import Past
    from lmtrain.data.sources import Corpus


class Run(NamedTuple):
    """How far a plan will be followed: to the step ``steps``, for so many ``tokens``."""

    steps: int
    tokens: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """How the pieces of the buckets that are drawn from are mixed."""

    sources: Mapping[str, int]
    """Where each one's positions begin; a single store has no name."""
    buckets: Sequence[Bucket]
    asked: list[float]
    """Part of the tokens that each should give, summing to one."""
    mixes: list[Mix]
    """One for each bucket."""
    weights: list[int]
    """Tokens of each bucket, in whose proportion it is drawn from."""
    limits: Sequence[float | None] = (None,)
    """How often the run may see the tokens of each source; None is any number of times."""
    identity: dict[str, Any] = field(default_factory=dict[str, Any])
    """What decides it besides data, weights and scope."""
    warnings: list[str] = field(default_factory=list[str])
    """What a user may not expect, a sentence each."""

    @property
    def tokens(self) -> NDArray[np.int64]:
        """``[sources, buckets]`` tokens in each cell."""
        return _tokens([[cell.pieces for cell in mix.cells] for mix in self.mixes], self.buckets)

    @property
    def used(self) -> NDArray[np.int64]:
        """``[sources, buckets]`` tokens of each cell that the plans before have used."""
        return _tokens([[cell.used for cell in mix.cells] for mix in self.mixes], self.buckets)

    @cached_property
    def fingerprints(self) -> dict[str, dict[str, int]]:
        """What tells the pieces of each cell from others, by source and bucket."""
        pieces = [[cell.pieces for cell in mix.cells] for mix in self.mixes]
        return cell_fingerprints(self.sources, self.buckets, pieces)

    def use(self, places: Sequence[int]) -> dict[str, dict[str, Used]]:
        """What was used of each cell after the first ``places`` pieces of each bucket.

        The sources go by the names of their orders, see `lmtrain.data.replan.order_names`.
        """
        used: dict[str, dict[str, Used]] = {}
        for bucket, mix, at in zip(self.buckets, self.mixes, places, strict=True):
            key = bucket_name(bucket)
            for name, cell, more in zip(self.sources, mix.cells, mix.counts(at), strict=True):
                now = Used(cell.used + more, self.fingerprints[name][key])
                used.setdefault(cell.source, {})[key] = now
        return used

    def drawn(self, places: Sequence[int]) -> NDArray[np.int64]:
        """``[sources, buckets]`` tokens in the first ``places`` pieces of each bucket."""
        counts = [mix.counts(at) for mix, at in zip(self.mixes, places, strict=True)]
        return _tokens(counts, self.buckets)


def build_mixture(
    data: Corpus,
    buckets: Sequence[Bucket],
    pieces: Sequence[Sequence[int]],
    *,
    seed: int,
    past: Sequence[Past] = (),
    run: Run | None = None,
) -> Mixture:
    """The mixture of the buckets that a plan draws from.

    Args:
        data: the sources.
        buckets: shortest first.
        pieces: of each source in them, ``[buckets][sources]``.
        seed: of the order of the pieces.
        past: the plans before.
        run: how far the plan will be followed; None is not known, and nothing limits repetition.

    Raises:
        ValueError: a source has no piece, or a weight needs more repetition than is allowed.
    """
    sources = begins(data)
    cells, warnings = _cells(sources, buckets, pieces, past)
    if not isinstance(data, Sources):
        mixes = [_mix(b, mine, None, seed) for b, mine in zip(buckets, cells, strict=True)]
        weights = [bucket.tokens for bucket in buckets]
        return Mixture(
            sources=sources,
            buckets=buckets,
            asked=[1.0],
            mixes=mixes,
            weights=weights,
            warnings=warnings,
        )
    supply = _tokens(pieces, buckets)
    used = _tokens([[cell.used for cell in mine] for mine in cells], buckets)
    _check_supply(data, supply)
    most = _most(data, supply, used, run) if run else None
    parts = shares(supply, data.weights, data.scope, most)
    each = Quotas.each([parts.within(number) for number in range(len(buckets))])
    return Mixture(
        sources=sources,
        buckets=buckets,
        asked=data.weights,
        mixes=[
            _mix(bucket, mine, quotas, seed)
            for bucket, mine, quotas in zip(buckets, cells, each, strict=True)
        ],
        limits=[config.max_repetition for config in data.configs.values()],
        weights=[max(1, round(part * int(supply.sum()))) for part in parts.buckets.tolist()],
        identity=_limits(data, run) if run and parts.limited else {},
        warnings=warnings,
    )


def _cells(
    sources: Mapping[str, int],
    buckets: Sequence[Bucket],
    pieces: Sequence[Sequence[int]],
    past: Sequence[Past],
) -> tuple[list[list[Cell]], list[str]]:
    """``[buckets][sources]``: the cells, each from where the plans before left it, and warnings."""
    if not past:
        every = [zip(sources, counts, strict=True) for counts in pieces]
        return [[Cell(source=name, pieces=n) for name, n in cells] for cells in every], []
    prints, before = cell_fingerprints(sources, buckets, pieces), past[-1].used
    orders = order_names(prints, past)
    cells: list[list[Cell]] = []
    warnings: list[str] = []
    for bucket, counts in zip(buckets, pieces, strict=True):
        key, mine = bucket_name(bucket), list[Cell]()
        for name, count in zip(sources, counts, strict=True):
            old = before.get(orders[name], {}).get(key)
            same = old is not None and old.cell == prints[name][key]
            used = old.pieces if old and same else 0
            mine.append(Cell(source=orders[name], pieces=count, used=used))
            if old and old.pieces and not same:
                warnings.append(
                    f"{key}{name and f' of {name}'} are others than before, so they begin anew: "
                    "some of their tokens may be seen again"
                )
        cells.append(mine)
    return cells, warnings


def _mix(bucket: Bucket, cells: list[Cell], quotas: Quotas | None, seed: int) -> Mix:
    return Mix(cells=cells, quotas=quotas, seed=seed, kind=bucket.kind, length=bucket.length)


def _tokens(pieces: Sequence[Sequence[int]], buckets: Sequence[Bucket]) -> NDArray[np.int64]:
    """``[sources, buckets]`` tokens in so many pieces, ``[buckets][sources]``."""
    return np.array(pieces, np.int64).T * np.array([b.length for b in buckets], np.int64)


def _check_supply(data: Sources, supply: NDArray[np.int64]) -> None:
    for name, tokens in zip(data.names, supply.sum(1).tolist(), strict=True):
        if not tokens:
            raise ValueError(
                f"data.sources.{name} has no piece of any length that is drawn from: leave it out "
                f"with ~data.sources.{name}, or lower curriculum.min_length"
            )


def _most(
    data: Sources, supply: NDArray[np.int64], used: NDArray[np.int64], run: Run
) -> NDArray[np.float64]:
    """The part of the run that each cell may give.

    Raises:
        ValueError: a source may give less than its weight asks for.
    """
    most = np.empty(supply.shape)
    for number, (name, config) in enumerate(data.configs.items()):
        limit, weight = config.max_repetition, data.weights[number]
        if limit is None:
            most[number] = np.inf
            continue
        left = np.maximum(limit * supply[number] - used[number], 0.0)
        most[number] = left / max(1, run.tokens)
        tokens, asked = int(supply[number].sum()), round(weight * run.tokens)
        if asked > left.sum() * (1 + 1e-9):
            times = (asked + int(used[number].sum())) / tokens
            raise ValueError(
                f"data.sources.{name}.weight is {weight:.4g} of all, {asked:,} tokens by "
                f"train.steps={run.steps}: that is {times:.2f} times the {tokens:,} it has, more "
                f"than data.sources.{name}.max_repetition={limit:g}: lower its weight or "
                "train.steps, or raise max_repetition"
            )
    return most


def _limits(data: Sources, run: Run) -> dict[str, Any]:
    limits = {
        f"data.sources.{name}.max_repetition": config.max_repetition
        for name, config in data.configs.items()
    }
    return {"train.steps": run.steps, **limits}
