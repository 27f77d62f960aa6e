"""Decomposition and the plan, on documents that exist only as lengths."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from lmtrain.bench.turns import Turn, compare, timed
from lmtrain.data.curriculum_config import CurriculumConfig
from lmtrain.data.decompose import decompose
from lmtrain.data.plan import Plan
from lmtrain.data.store import Documents, Selection, Side, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from lmtrain.bench.config import BenchConfig
    from lmtrain.bench.turns import Result

MEAN, SIGMA = 1024, 1.3
"""Mean length of a document in tokens, and the spread of its logarithm."""

SAMPLE = 100_000
"""Documents that the plain loop takes."""

DRAWS = 20
"""Random steps of one turn."""

DOCUMENTS_PER_SECOND, ORDER_SECONDS = 4e6, 0.5
"""What we ask of ourselves: decomposition, and the order of all steps."""


class Lengths(Store):
    """Documents without tokens, which is all that a plan needs."""

    def __init__(self, documents: Documents) -> None:
        self._documents, self.selection = documents, Selection(val_fraction=0)

    @property
    def identity(self) -> dict[str, Any]:
        """Only how many there are."""
        return {"data.max_documents": len(self._documents.starts)}

    def documents(self, side: Side) -> Documents:
        """All of them train."""
        return self._documents if side == Side.train else self._documents.first(0, None)


def synthetic(documents: int) -> Documents:
    """So many documents of log-normal lengths, one after the other; always the same ones."""
    rng = np.random.default_rng(0)
    draws = rng.lognormal(np.log(MEAN) - SIGMA**2 / 2, SIGMA, documents)
    lengths: NDArray[np.int64] = np.maximum(draws, 2).astype(np.int64)
    return Documents(np.cumsum(lengths) - lengths, lengths)


def by_loop(documents: Documents, lengths: Sequence[int]) -> dict[int, list[int]]:
    """Where the pieces of each length start, digit by digit of each document."""
    buckets: dict[int, list[int]] = defaultdict(list)
    longest = lengths[-1]
    for start, length in zip(documents.starts.tolist(), documents.lengths.tolist(), strict=True):
        at, pairs = start, length - 1
        while pairs >= longest:
            buckets[longest].append(at)
            at, pairs = at + longest, pairs - longest
        for piece in reversed(lengths[:-1]):
            if pairs & piece:
                buckets[piece].append(at)
                at += piece
    return buckets


def measure_plan(config: BenchConfig) -> tuple[list[Result], list[str]]:
    """Documents a second, and the seconds of a plan.

    Raises:
        RuntimeError: decomposition and the plain loop disagree.
    """
    documents, lengths = synthetic(config.documents), config.piece_lengths
    few = documents.first(SAMPLE, None)
    check_decomposition(few, lengths)

    def vectorised() -> int:
        decompose(documents, lengths)
        return len(documents.starts)

    def loop() -> int:
        by_loop(few, lengths)
        return len(few.starts)

    contenders: dict[str, Callable[[], Turn]] = {
        "lmtrain": partial(timed, vectorised),
        "plain loop": partial(timed, loop),
    }
    unit = "documents/s/core"
    found = compare("decomposition", contenders, config, unit=unit, target=DOCUMENTS_PER_SECOND)
    return [*found, *_plan(Lengths(documents), config)], []


def check_decomposition(documents: Documents, lengths: Sequence[int]) -> None:
    """See that both ways give the same pieces.

    Raises:
        RuntimeError: they do not.
    """
    fast, plain = decompose(documents, lengths).buckets, by_loop(documents, lengths)
    for length in lengths:
        if not np.array_equal(fast[length], np.array(plain[length], np.int64)):
            raise RuntimeError(f"decomposition and the plain loop disagree on length {length}")


def _plan(store: Store, config: BenchConfig) -> list[Result]:
    curriculum = CurriculumConfig(min_length=config.min_length, max_length=config.max_length)
    per_step, steps = max(config.row, config.max_length), config.steps

    def build() -> Plan:
        return Plan.build(store, curriculum, seed=0, tokens_per_step=per_step)

    def order(plan: Plan) -> int:
        for step in range(0, steps, plan.schedule.cycle_steps):
            plan.length(step)  # makes the cycle of the step
        return 0

    seeds = count()

    def draw() -> Turn:
        some = np.random.default_rng(next(seeds)).integers(steps, size=DRAWS).tolist()
        turn = timed(lambda: sum(plan[step].tokens for step in some))
        return Turn(turn.seconds / DRAWS, 0)

    plan = build()
    works: dict[str, tuple[Callable[[], Turn], float | None]] = {
        "building a plan": (
            lambda: timed(lambda: build().first_step),
            None,
        ),
        "order of all its steps": (lambda: _fresh(build, order), ORDER_SECONDS),
        "a random step of it": (draw, None),
    }
    return [
        result
        for what, (work, target) in works.items()
        for result in compare(what, {"lmtrain": work}, config, unit="s", target=target)
    ]


def _fresh(build: Callable[[], Plan], order: Callable[[Plan], int]) -> Turn:
    """A turn on a new plan, which has not made any cycle."""
    plan = build()
    return timed(lambda: order(plan))
