"""From a budget to a number of steps."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import TYPE_CHECKING, TypeAlias

from lmtrain.data.cells import bucket_name
from lmtrain.models.accounting import ModelCost

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.config import RunConfig
    from lmtrain.data.bucket import Bucket
    from lmtrain.data.plan import Plan
    from lmtrain.train.checkpoint import State

SECONDS_PER_HOUR = 3600

Price: TypeAlias = "Callable[[Bucket], float]"
"""What a step that draws from a bucket costs."""


@dataclass(frozen=True)
class Pace:
    """How long a step takes; `lmtrain.train.pace` measures it."""

    seconds: dict[str, float]
    """By the name of the bucket that it draws from."""

    def of(self, bucket: Bucket) -> float:
        """Seconds of a step that draws from a bucket.

        Raises:
            ValueError: the run had no such bucket when it was measured.
        """
        name = bucket_name(bucket)
        if name not in self.seconds:
            raise ValueError(
                f"budget.hours was measured over {', '.join(self.seconds)}, not over {name}: set "
                "data and curriculum back, or choose another run.dir"
            )
        return self.seconds[name]

    @classmethod
    def read(cls, path: Path) -> Pace:
        """From a file that holds a `text`.

        Raises:
            ValueError: it is damaged.
        """
        try:
            seconds = json.loads(path.read_text(encoding="utf-8"))["seconds"]
            return cls({str(name): float(value) for name, value in seconds.items()})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error!r}): choose another run.dir") from error

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def __str__(self) -> str:
        """In words."""
        return ", ".join(f"{value:.3g} s ({name})" for name, value in self.seconds.items())


def affordable(
    config: RunConfig,
    build: Callable[[int], Plan],
    pace: Pace | None = None,
    state: State | None = None,
) -> RunConfig:
    """The same run with as many steps as its budget pays for; as it is without one.

    Args:
        config: resolved: the model's vocabulary is known.
        build: gives the plan of a run of so many steps.
        pace: how long steps take; None is not measured yet, and hours then pay for one step.
        state: where the run goes on from; None is its beginning.

    Raises:
        ValueError: the budget does not pay for one step, or for more than the data gives; or it is
            one that cannot be counted on from there.
    """
    if not config.budget.said:
        return config
    [(key, limit)] = config.budget.said.items()
    said = f"{key}={limit:g}"
    if key == "budget.tokens":
        step, seen = (state.step, state.tokens) if state and state.used else (0, 0)
        steps = max(0, step + int((limit - seen) // config.train.tokens_per_step))
    elif state and state.past:
        raise ValueError(
            f"{said} cannot count the steps of a run that was planned anew: say budget.tokens or "
            "train.steps"
        )
    elif key == "budget.flops":
        steps = _paid(said, limit, step_flops(config), build)
    else:
        seconds = limit * SECONDS_PER_HOUR
        said = f"{said}, {seconds:.3g} seconds,"
        steps = _paid(said, seconds, pace.of, build) if pace else 1
    return replace(config, train=replace(config.train, steps=steps))


def spent(plan: Plan, steps: int, price: Price) -> float:
    """What the first steps of a plan cost, by the buckets that they draw from."""
    return sum(n * price(b) for n, b in zip(plan.counts(steps), plan.buckets, strict=True))


def step_flops(config: RunConfig) -> Price:
    """FLOPs of a step, forward and backward, by the length of its pieces."""
    cost, tokens = ModelCost.of(config.model), config.train.tokens_per_step
    return lambda bucket: tokens * cost.training_flops_per_token([bucket.length])


def _paid(said: str, limit: float, price: Price, build: Callable[[int], Plan]) -> int:
    """The most steps that cost no more than ``limit``.

    A plan may order its lengths by where the run ends, so each number of steps has its own.

    Raises:
        ValueError: not one, or the data does not give as many as are paid for.
    """
    one = build(1)
    prices = [price(bucket) for bucket in one.buckets]

    def cost(steps: int) -> float:
        try:
            return spent(build(steps), steps, price)
        except ValueError:  # the data does not give so many
            return inf

    most = int(limit // min(prices))
    steps = bisect_right(range(1, most + 1), limit, key=cost)
    if not steps:
        raise ValueError(
            f"{said} does not pay for one step, which costs {spent(one, 1, price):.3g}: raise it, "
            "or lower train.tokens_per_step"
        )
    if steps < most and cost(steps) + min(prices) <= limit:
        try:
            build(steps + 1)
        except ValueError as error:
            raise ValueError(
                f"{said} pays for more than the {steps} steps that the data gives ({error}): lower "
                "it"
            ) from error
    return steps
