"""Learning rates are pure functions of the step."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtrain.settings.optim import OptimConfig, Schedule
from lmtrain.train.schedule import learning_rate

CURVES = st.builds(
    OptimConfig,
    lr=st.just(2.0),
    schedule=st.sampled_from(Schedule),
    warmup_steps=st.integers(0, 20),
    final_fraction=st.floats(0, 1),
    decay_fraction=st.floats(0, 1),
)


def curve(optim: OptimConfig, steps: int) -> list[float]:
    return [learning_rate(step, steps=steps, optim=optim) for step in range(steps)]


@given(optim=CURVES, steps=st.integers(1, 100))
def test_it_rises_to_lr_and_then_only_falls(optim: OptimConfig, steps: int) -> None:
    rates = curve(optim, steps)
    top = max(optim.warmup_steps, 1) - 1
    assert all(0 < rate <= optim.lr or optim.final_fraction == 0 for rate in rates)
    after = rates[top:]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(after))


@given(optim=CURVES, steps=st.integers(40, 100))
def test_the_last_step_has_the_final_fraction(optim: OptimConfig, steps: int) -> None:
    last = curve(optim, steps)[-1]
    decays = optim.schedule is Schedule.cosine or (
        optim.schedule is Schedule.wsd and round(optim.decay_fraction * steps)
    )
    assert last == pytest.approx(optim.lr * optim.final_fraction if decays else optim.lr)


def test_warm_up_is_linear() -> None:
    optim = OptimConfig(lr=1.0, warmup_steps=4, schedule=Schedule.constant)
    assert curve(optim, 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_is_half_way_in_the_middle() -> None:
    optim = OptimConfig(lr=1.0, warmup_steps=0, final_fraction=0.0)
    assert curve(optim, 5) == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0])


def test_wsd_is_constant_and_then_falls_in_a_line() -> None:
    optim = OptimConfig(
        lr=1.0, warmup_steps=0, schedule=Schedule.wsd, decay_fraction=0.4, final_fraction=0.0
    )
    assert curve(optim, 10) == pytest.approx([1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])
