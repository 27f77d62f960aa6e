"""What a plan takes from each source, as a table to read before the run."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from lmtrain.data.replan import changes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lmtrain.data.plan import Plan

SLACK = 1.1
"""How far above its limit a length may be seen without a word: whole steps do not divide evenly."""


def mixture_lines(plan: Plan, steps: int) -> list[str]:
    """Asked and given tokens, epochs and part of each length of every source, up to a step.

    A plan of one store without a past has none of it to tell.
    """
    mixture = plan.mixture
    if not any(mixture.sources):
        return _past_lines(plan)
    given = mixture.drawn(plan.pieces(steps))
    total, supply = max(1, int(given.sum())), mixture.tokens.sum(1)
    epochs = (given + mixture.used).sum(1) / supply
    within = given / given.sum(0).clip(min=1)
    width = max(8, *map(len, mixture.sources))
    parts = "".join(f"{f'of {length}':>10}" for length in plan.lengths)
    head = f"{'source':>{width}} {'asked':>7} {'given':>7} {'tokens':>14} {'epochs':>7}"
    lines = [head + parts]
    for number, name in enumerate(mixture.sources):
        mine = "".join(f"{part:>10.1%}" for part in within[number].tolist())
        tokens = int(given[number].sum())
        lines.append(
            f"{name:>{width}} {mixture.asked[number]:>7.1%} {tokens / total:>7.1%} {tokens:>14,} "
            f"{epochs[number]:>7.2f}{mine}"
        )
    return [*lines, *_repeated(plan, given + mixture.used), *_past_lines(plan)]


def _repeated(plan: Plan, seen: NDArray[np.int64]) -> list[str]:
    """Lengths that come more often than their source may, where an order does not keep shares.

    Args:
        plan: the plan.
        seen: ``[sources, buckets]`` tokens.
    """
    mixture, told = plan.mixture, list[str]()
    times = seen / mixture.tokens.clip(min=1)
    for name, limit, mine in zip(mixture.sources, mixture.limits, times.tolist(), strict=True):
        most = SLACK * (limit or inf)
        over = [f"{n} ({t:.1f} times)" for n, t in zip(plan.lengths, mine, strict=True) if t > most]
        if over:
            told.append(
                f"the curriculum draws some lengths of {name} more often than data.sources.{name}."
                f"max_repetition={limit:g}: {', '.join(over)}; shorten curriculum.stages or "
                "curriculum.cycle_steps, or raise that"
            )
    return told


def _past_lines(plan: Plan) -> list[str]:
    """Where plans changed, and how."""
    identities = [*(past.identity for past in plan.past), plan.identity]
    return [
        f"re-planned from step {past.step} on: {'; '.join(changes(past.identity, after))}"
        for past, after in zip(plan.past, identities[1:], strict=True)
    ]
