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

    @property
    def said(self) -> dict[str, float]:
        """What is limited, by key."""
        every = {"budget.tokens": self.tokens, "budget.flops": self.flops}
        return {key: value for key, value in every.items() if value is not None}

    def check(self, *, steps: int, tokens_per_step: int, foreseen: bool) -> list[str]:
        """Every problem, each a sentence with key, value and remedy.

        Args:
            steps: as configured.
            tokens_per_step: of the training.
            foreseen: no step is left out and no plan is changed on the way.
        """
        problems = [
            f"{key}={value:g} must be positive and finite: leave it out for train.steps"
            for key, value in self.said.items()
            if not 0 < value < float("inf")
        ]
        if len(self.said) > 1:
            problems.append(
                f"{' and '.join(f'{k}={v:g}' for k, v in self.said.items())} both decide the "
                "number of steps: leave one of them out"
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
        if self.flops is not None and not foreseen:
            problems.append(
                f"budget.flops={self.flops:g} cannot foresee data.skip_steps or resume.replan: say "
                "budget.tokens or train.steps"
            )
        return problems
