"""The order of a plan: what a curriculum makes of the buckets that a run draws from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lmtrain.data.curriculum import Schedule, odds, stairs
from lmtrain.data.curriculum_config import CurriculumName, OddsScale, Remainder, ViewName
from lmtrain.data.opening import final_long, stages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmtrain.data.bucket import Bucket
    from lmtrain.data.curriculum_config import CurriculumConfig


class Amounts(NamedTuple):
    """Tokens that an order deals with."""

    weights: Sequence[int]
    """Of each bucket in one pass; its share of the steps."""
    used: Sequence[int]
    """Of each bucket that plans before this one have drawn."""
    before: int
    """Of the run before this plan."""
    steps: int
    """Steps of the run in this plan; one pass where that is not known."""
    per_step: int


def make_schedule(
    curriculum: CurriculumConfig,
    every: Sequence[Bucket],
    drawn: Sequence[Bucket],
    amounts: Amounts,
    *,
    seed: int,
) -> Schedule:
    """The schedule of the buckets that are ``drawn`` from, out of ``every`` one of a view.

    Raises:
        ValueError: no bucket is short enough for a stage.
    """
    chances = odds(curriculum, len(every))
    if chances:
        chances = [float(chances[every.index(bucket)]) for bucket in drawn]
        if curriculum.odds_scale == OddsScale.bucket_size:
            total = sum(amounts.weights)
            chances = [o * w / total for o, w in zip(chances, amounts.weights, strict=True)]
    steps = sum(amounts.weights) // amounts.per_step
    cycle_steps = curriculum.cycle_steps or max(1, steps // curriculum.cycles)
    return Schedule(
        amounts.weights,
        cycle_steps=cycle_steps,
        odds=chances,
        randomness=curriculum.randomness,
        seed=seed,
        stairs=stairs(curriculum, len(drawn)),
        opening=_opening(curriculum, drawn, amounts, cycle_steps),
    )


def _opening(
    curriculum: CurriculumConfig, drawn: Sequence[Bucket], amounts: Amounts, cycle_steps: int
) -> list[list[int]]:
    if curriculum.name == CurriculumName.progressive:
        left = [w - u % w for w, u in zip(amounts.weights, amounts.used, strict=True)]
        return stages(
            _stages_left(curriculum.stages, amounts.before),
            left,
            amounts.weights,
            [bucket.length for bucket in drawn],
            tokens_per_step=amounts.per_step,
        )
    if curriculum.final_long:
        run = amounts.before // amounts.per_step + amounts.steps
        final = min(amounts.steps, round(curriculum.final_long * run))
        return final_long(
            amounts.weights, steps=amounts.steps, final=final, cycle_steps=cycle_steps
        )
    return []


def _stages_left(config: Sequence[Sequence[int]], before: int) -> list[list[int]]:
    """What is left of the stages after so many tokens."""
    found: list[list[int]] = []
    for tokens, longest in config:
        found.append([max(0, tokens - before), longest])
        before = max(0, before - tokens)
    return [stage for stage in found if stage[0]]


def order_identity(
    curriculum: CurriculumConfig, schedule: Schedule, amounts: Amounts
) -> dict[str, Any]:
    """All of a curriculum that decides batches, by the key a user sets it with, and nothing else.

    What was added to the keys later is named only where it is used, so that older runs go on.
    """
    lengths, name = curriculum.drawn_lengths, curriculum.name
    found: dict[str, Any] = {
        "curriculum.min_length": lengths[0],
        "curriculum.max_length": lengths[-1],
        "curriculum.long_docs": str(curriculum.long_docs),
        "curriculum.odds": schedule.odds,
        "curriculum.randomness": str(schedule.randomness),
        "curriculum.cycle_steps": schedule.cycle_steps,
    }
    if curriculum.view != ViewName.decompose:
        found["curriculum.view"] = str(curriculum.view)
    if curriculum.remainder == Remainder.pack:
        found["curriculum.remainder"] = str(curriculum.remainder)
    if name in (CurriculumName.staircase_linear, CurriculumName.staircase_p2):
        found["curriculum.name"] = str(name)
    if name == CurriculumName.progressive:
        found["curriculum.stages"] = [list(stage) for stage in curriculum.stages]
    if name == CurriculumName.window_warmup:
        found["curriculum.window_start"] = curriculum.window_start
        found["curriculum.window_rate"] = curriculum.window_rate
    if curriculum.final_long:
        found["curriculum.final_long"] = curriculum.final_long
        found["train.steps"] = amounts.before // amounts.per_step + amounts.steps
    return found


class Window(NamedTuple):
    """A window that grows with the steps of a run, until it is the whole piece."""

    start: int
    rate: float

    @classmethod
    def of(cls, curriculum: CurriculumConfig) -> Window | None:
        """That of a curriculum; None where pieces are seen whole."""
        if curriculum.name != CurriculumName.window_warmup:
            return None
        return cls(curriculum.window_start, curriculum.window_rate)

    def at(self, step: int) -> int:
        """Tokens of the window in a step."""
        return self.start + int(self.rate * step)

    def full(self, length: int) -> int:
        """The first step whose window is the whole piece."""
        step = max(0, int((length - self.start) / self.rate) - 1)
        while self.at(step) < length:
            step += 1
        return step
