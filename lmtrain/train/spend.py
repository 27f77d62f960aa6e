"""From a budget to a number of steps."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING

from lmtrain.models.accounting import ModelCost

if TYPE_CHECKING:
    from collections.abc import Callable

    from lmtrain.config import RunConfig
    from lmtrain.data.plan import Plan


def affordable(config: RunConfig, build: Callable[[int], Plan]) -> RunConfig:
    """The same run with as many steps as its budget pays for; as it is without one.

    Args:
        config: resolved: the model's vocabulary is known.
        build: gives the plan of a run of so many steps.

    Raises:
        ValueError: the budget does not pay for one step.
    """
    tokens, flops = config.budget.tokens, config.budget.flops
    if tokens is not None:
        steps = int(tokens // config.train.tokens_per_step)
    elif flops is not None:
        steps = _paid(flops, config, build)
    else:
        return config
    return replace(config, train=replace(config.train, steps=steps))


def spent(config: RunConfig, plan: Plan, steps: int) -> float:
    """FLOPs of the first steps of a plan, forward and backward, by the lengths of its pieces."""
    cost = ModelCost.of(config.model)
    return config.train.tokens_per_step * sum(
        count * cost.training_flops_per_token([length])
        for count, length in zip(plan.counts(steps), plan.lengths, strict=True)
    )


def _paid(flops: float, config: RunConfig, build: Callable[[int], Plan]) -> int:
    """The most steps that cost no more than ``flops``.

    A plan may order its lengths by where the run ends, so each number of steps has its own.
    """
    cost, tokens = ModelCost.of(config.model), config.train.tokens_per_step
    lengths = build(1).lengths
    dearest, cheapest = (
        tokens * cost.training_flops_per_token([length]) for length in (lengths[-1], lengths[0])
    )
    if flops < cheapest:
        raise ValueError(
            f"budget.flops={flops:g} does not pay for one step, which costs {cheapest:.3g}: raise "
            "it, or lower train.tokens_per_step"
        )
    candidates = range(max(1, int(flops // dearest)), int(flops // cheapest) + 1)
    number = bisect_right(candidates, flops, key=lambda n: spent(config, build(n), n))
    if not number:
        first = spent(config, build(candidates[0]), candidates[0])
        raise ValueError(
            f"budget.flops={flops:g} does not pay for one step, which costs {first:.3g}: raise "
            "it, or lower train.tokens_per_step"
        )
    return candidates[number - 1]
