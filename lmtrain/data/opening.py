"""Openings: the cycles before the endless ones, where a run does not follow the shares throughout.

``progressive`` begins with stages whose pieces are short, then takes what they left of one pass
over the data. ``final_long`` plans a whole run: its cycles hold back pieces of the longest buckets,
and its end is these. Both only move pieces: over the pass, or the run, every bucket still gives its
share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmtrain.data.curriculum import apportion, extend_quotas

if TYPE_CHECKING:
    from collections.abc import Sequence


def stages(
    config: Sequence[Sequence[int]],
    left: Sequence[int],
    weights: Sequence[int],
    lengths: Sequence[int],
    *,
    tokens_per_step: int,
) -> list[list[int]]:
    """Steps of each bucket in every stage, and in the rest of the pass.

    Args:
        config: tokens and longest length of each stage.
        left: tokens of each bucket that are not drawn yet.
        weights: tokens of each bucket in a pass.
        lengths: of the buckets.
        tokens_per_step: tokens of a step.

    Raises:
        ValueError: no bucket is short enough for a stage.
    """
    found: list[list[int]] = []
    for tokens, longest in config:
        drawn = [int(length <= longest) for length in lengths]
        if not any(drawn):
            raise ValueError(
                f"curriculum.stages=[[{tokens}, {longest}], ...] has no pieces: the shortest "
                f"bucket that holds a step is of {min(lengths)}, so use that or more"
            )
        steps = tokens // tokens_per_step
        if not steps:
            continue
        while sum(n * d for n, d in zip(left, drawn, strict=True)) < steps * tokens_per_step:
            left = [n + w * d for n, w, d in zip(left, weights, drawn, strict=True)]  # again
        counts = apportion(steps, [n * d for n, d in zip(left, drawn, strict=True)])
        left = [max(0, n - c * tokens_per_step) for n, c in zip(left, counts, strict=True)]
        found.append(counts)
    rest = sum(left) // tokens_per_step
    return [*found, apportion(rest, left)] if rest else found


def final_long(
    weights: Sequence[int], *, steps: int, final: int, cycle_steps: int
) -> list[list[int]]:
    """Steps of each bucket in every cycle of a run, the last ``final`` steps from the longest.

    Those are as few buckets as have enough for it. The cycles before are equally long, none is
    cut, and they have about ``cycle_steps``.

    Args:
        weights: tokens of each bucket, shortest first.
        steps: of the run.
        final: steps at its end.
        cycle_steps: steps of a cycle.
    """
    total, first = sum(weights), len(weights) - 1
    while first and sum(weights[first:]) * steps < final * total:
        first -= 1
    long = sum(weights[first:])
    before = [w * long * steps for w in weights[:first]]
    before += [w * (long * steps - final * total) for w in weights[first:]]
    main = steps - final
    count = -(-main // cycle_steps)
    quotas, cycles = [0] * len(weights), list[list[int]]()
    for number in range(count):
        grown = extend_quotas(quotas, before, main * (number + 1) // count)
        cycles.append([b - a for a, b in zip(quotas, grown, strict=True)])
        quotas = grown
    return [*cycles, [0] * first + apportion(final, weights[first:])]
