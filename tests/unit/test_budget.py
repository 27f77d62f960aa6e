"""Budgets become steps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from lmtrain.config import compose
from lmtrain.models.accounting import ModelCost
from lmtrain.report.progress import Progress, cost_of
from lmtrain.report.read import read
from lmtrain.settings.budget import BudgetSection
from lmtrain.train.checkpoint import State
from lmtrain.train.launch import launch
from lmtrain.train.opening import open_run
from lmtrain.train.spend import affordable, spent, step_flops

if TYPE_CHECKING:
    from runs import Run


@pytest.fixture
def words(run: Run) -> list[str]:
    return [word for word in run.overrides if not word.startswith("train.steps")]


@pytest.mark.parametrize("curriculum", ["grow_p2", "progressive"])
def test_flops_pay_for_whole_steps_and_not_for_one_more(words: list[str], curriculum: str) -> None:
    opened = open_run(compose([*words, f"curriculum={curriculum}", "budget.flops=7.7e9"]))
    config, steps = opened.config, opened.config.train.steps
    cost = ModelCost.of(config.model)
    flops = [256 * cost.training_flops_per_token([opened.plan.length(n)]) for n in range(steps)]
    assert len(set(flops)) > 1
    assert spent(opened.plan, steps, step_flops(config)) == pytest.approx(sum(flops), rel=1e-12)
    assert sum(flops) <= 7.7e9
    more = replace(config.train, steps=steps + 1)
    longer = open_run(replace(config, train=more, budget=BudgetSection()))
    assert spent(longer.plan, steps + 1, step_flops(config)) > 7.7e9


def test_a_dearer_model_gets_fewer_steps(words: list[str]) -> None:
    steps = [
        open_run(compose([*words, "budget.flops=1e10", f"model.n_layers={n}"])).config.train.steps
        for n in (4, 8)
    ]
    assert steps[1] < steps[0]


def test_tokens_are_whole_steps(words: list[str]) -> None:
    assert open_run(compose([*words, "budget.tokens=1e3"])).config.train.steps == 3


def test_what_was_spent_is_what_the_report_counts(run: Run, words: list[str]) -> None:
    config = compose([*words, "budget.flops=3e9", "samples.count=0", "validation.every=null"])
    assert launch(config) == 0
    left, opened = read(run.folder), open_run(config)
    steps = opened.config.train.steps
    assert left.step == steps == left.config["train.steps"]
    assert left.config["budget.flops"] == 3e9
    counted = Progress.of(left, cost_of(left)).flops[-1]
    paid = spent(opened.plan, steps, step_flops(opened.config))
    assert counted == pytest.approx(paid, rel=1e-12)
    assert opened.finished  # the same command again has the same number of steps


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (["budget.tokens=100"], "budget.tokens=100 is less than one step of train.tokens_per_step"),
        (["budget.tokens=-1"], "budget.tokens=-1 must be positive and finite"),
        (["budget.flops=inf"], "budget.flops=inf must be positive and finite"),
        (["budget.hours=nan"], "budget.hours=nan must be positive and finite"),
        (["budget.hours=-1"], "budget.hours=-1 must be positive and finite"),
        (["budget.tokens=1e4", "budget.flops=1e9"], "budget.flops=1e+09 each decide"),
        (["budget.tokens=1e4", "budget.hours=2"], "budget.hours=2 each decide the number of steps"),
        (["budget.tokens=1e4", "train.steps=7"], "train.steps=7 and budget.tokens both decide"),
        (["budget.hours=2", "train.steps=7"], "train.steps=7 and budget.hours both decide"),
        (["budget.flops=1e9", "resume.replan=true"], "cannot foresee data.skip_steps or resume"),
        (["budget.hours=1", "data.skip_steps=[[1,2]]"], "budget.hours=1 cannot foresee data.skip"),
        *(
            (
                [f"budget.{what}=1e12", "distill.teacher=there", "distill.logits_steps=1"],
                f"budget.{what}=1e+12 cannot foresee the stages of distill.teacher",
            )
            for what in ("hours", "flops")
        ),
    ],
)
def test_a_budget_that_is_none_is_refused(words: list[str], said: list[str], told: str) -> None:
    problems = compose([*words, *said]).check(1)
    assert len(problems) == 1
    assert told in problems[0]


def test_a_budget_below_one_step_is_a_sentence(words: list[str]) -> None:
    with pytest.raises(ValueError, match="does not pay for one step, which costs"):
        open_run(compose([*words, "budget.flops=1e6"]))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            ["distill.teacher=there", "distill.logits_steps=4"],
            r"distill\.logits_steps=4 are more than budget\.tokens=1000 \(3 steps\): raise that",
        ),
        (["logging.profile=2:3"], r"profile=2:3 ends after budget\.tokens=1000 \(3 steps\)"),
    ],
)
def test_single_steps_lie_within_the_budget(words: list[str], said: list[str], told: str) -> None:
    assert compose([*words, *said, "budget.tokens=1e9"]).check(1) == []
    config = compose([*words, *said, "budget.tokens=1e3"])
    assert config.check(1) == []
    with pytest.raises(ValueError, match=told):
        open_run(config)


def test_prices_of_a_run_that_was_planned_anew_are_not_known(words: list[str]) -> None:
    config = compose([*words, "budget.flops=1e9"])
    plan = open_run(config).plan
    state = State(step=5, plan="", identity={}, past=[{"step": 3}])
    with pytest.raises(ValueError, match="that was planned anew: say budget.tokens or train.steps"):
        affordable(config, lambda _: plan, state=state)


def test_what_the_data_gives_limits_only_what_is_paid_for(words: list[str]) -> None:
    [path] = [word.removeprefix("data.source=") for word in words if "data.source=" in word]
    words = [word for word in words if "data.source=" not in word]
    words += [f"+data.sources.{name}.path={path}" for name in "ab"]
    last = open_run(compose([*words, "train.steps=20"]))
    price, half = step_flops(last.config), 20 * 256 / 2
    paid, cheapest = spent(last.plan, 20, price), price(last.plan.buckets[0])
    limit = half / int(last.plan.mixture.tokens[0].sum())
    words += [f"+data.sources.{name}.max_repetition={limit}" for name in "ab"]
    enough = compose([*words, f"budget.flops={paid + cheapest / 2}"])
    assert open_run(enough).config.train.steps == 20
    with pytest.raises(ValueError, match="pays for more than the 20 steps that the data gives"):
        open_run(compose([*words, f"budget.flops={2 * paid}"]))
