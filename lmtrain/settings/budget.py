"""What a run may spend, in place of a number of steps."""

from __future__ import annotations

from dataclasses import dataclass

STEPS = 300
"""Updates of a run that says nothing of its length."""


@dataclass(kw_only=True)
class BudgetSection:
    """What a run may spend; it decides ``train.steps``, so that runs of a sweep are comparable.

    The run's config.yaml holds both. A run continues when its budget grows.
    """

    tokens: float | None = None
    """Tokens to learn from, like 1e9: as many whole steps as they give."""
    flops: float | None = None
    """FLOPs of forward and backward, like 1e15, as `lmtrain inspect` counts them: as many whole
    steps as they pay for, each by the length of its documents."""
    hours: float | None = None
    """Hours of steps, like 0.5: as many whole steps as fit. Before its first step a new run times
    updates of every length, which change nothing; from then on the number is fixed, and more hours
    continue the run at the same pace (pace.json). What slows it later is not foreseen; the start,
    validation, checkpoints, samples and scores come on top."""

    @property
    def said(self) -> dict[str, float]:
        """What is limited, by key."""
        every = {
            "budget.tokens": self.tokens,
            "budget.flops": self.flops,
            "budget.hours": self.hours,
        }
        return {key: value for key, value in every.items() if value is not None}

    def decided(self, steps: int) -> str:
        """Which key decides that a run has so many steps, with its value."""
        said = [f"{key}={value:g} ({steps} steps)" for key, value in self.said.items()]
        return said[0] if said else f"train.steps={steps}"

    def check(
        self, *, steps: int, tokens_per_step: int, foreseen: bool, staged: bool = False
    ) -> list[str]:
        """Every problem, each a sentence with key, value and remedy.

        Args:
            steps: as configured.
            tokens_per_step: of the training.
            foreseen: no step is left out and no plan is changed on the way.
            staged: a teacher makes the first steps dearer than the rest.
        """
        problems = [
            f"{key}={value:g} must be positive and finite: leave it out for train.steps"
            for key, value in self.said.items()
            if not 0 < value < float("inf")
        ]
        if len(self.said) > 1:
            problems.append(
                f"{' and '.join(f'{k}={v:g}' for k, v in self.said.items())} each decide the "
                "number of steps: say one of them"
            )
        if self.said and steps != STEPS:
            problems.append(
                f"train.steps={steps} and {next(iter(self.said))} both decide the number of steps: "
                f"leave one of them out (train.steps={STEPS} is its default)"
            )
        if self.tokens is not None and 0 < self.tokens < tokens_per_step:
            problems.append(
                f"budget.tokens={self.tokens:g} is less than one step of train.tokens_per_step="
                f"{tokens_per_step}: raise it"
            )
        problems += [
            f"{key}={value:g} cannot foresee {what}: say budget.tokens or train.steps"
            for key, value in self.said.items()
            for what, unforeseen in {
                "data.skip_steps or resume.replan": not foreseen,
                "the stages of distill.teacher": staged,
            }.items()
            if key != "budget.tokens" and unforeseen
        ]
        return problems
