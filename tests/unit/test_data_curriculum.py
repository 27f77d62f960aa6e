from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtrain.data.curriculum import Schedule, apportion, extend_quotas, odds, race, stairs
from lmtrain.data.curriculum_config import CurriculumConfig, CurriculumName, Randomness
from lmtrain.data.permutation import Permutation, uniform


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**63))
def test_feistel_is_a_bijection(size: int, key: int) -> None:
    image = Permutation(size, key)(np.arange(size))
    assert np.array_equal(np.sort(image), np.arange(size))


@given(st.integers(5000, 2**48), st.integers(0, 100))
def test_feistel_stays_inside_large_sets_and_is_injective(size: int, key: int) -> None:
    index = np.unique(np.random.default_rng(key).integers(0, size, 200))
    image = Permutation(size, key)(index)
    assert image.min() >= 0
    assert image.max() < size
    assert len(np.unique(image)) == len(index)


def test_other_keys_give_other_orders() -> None:
    index = np.arange(1000)
    a, b = Permutation(1000, 1, "pieces", 64, 0), Permutation(1000, 1, "pieces", 64, 1)
    assert (a(index) == b(index)).mean() < 0.01
    assert (a(index) == index).mean() < 0.01
    np.testing.assert_array_equal(a(index), Permutation(1000, 1, "pieces", 64, 0)(index))


def test_every_place_is_equally_likely() -> None:
    places = [int(Permutation(10, key)(np.array([3]))[0]) for key in range(4000)]
    counts = np.bincount(places, minlength=10)
    assert abs(counts - 400).max() < 5 * np.sqrt(400)


def test_uniform_numbers_are_uniform() -> None:
    numbers = np.sort(uniform(10_000, "key"))
    assert numbers.min() > 0
    assert numbers.max() < 1
    assert abs(numbers - np.arange(0.5, 10_000) / 10_000).max() < 0.02  # Kolmogorov-Smirnov


weights = st.lists(st.integers(1, 10**6), min_size=1, max_size=8)


@given(weights, st.lists(st.integers(1, 300), min_size=1, max_size=30))
def test_quotas_grow_and_follow_the_shares(weights: list[int], cycles: list[int]) -> None:
    quotas, steps = [0] * len(weights), 0
    for cycle in cycles:
        steps += cycle
        grown = extend_quotas(quotas, weights, steps)
        assert sum(grown) == steps
        assert all(after >= before for before, after in zip(quotas, grown, strict=True))
        for count, weight in zip(grown, weights, strict=True):
            assert abs(count - Fraction(steps * weight, sum(weights))) < 1
        quotas = grown


def chance(order: tuple[int, ...], counts: list[int], odds: list[float]) -> float:
    """The probability of an order when buckets are drawn by odds among those not yet empty."""
    left, product = list(counts), 1.0
    for bucket in order:
        product *= odds[bucket] / sum(o for o, n in zip(odds, left, strict=True) if n)
        left[bucket] -= 1
    return product


def test_the_race_is_drawing_by_odds() -> None:
    counts, chances, draws = [3, 2, 1], [4.0, 2.0, 1.0], 6000
    raced = Counter(
        tuple(race(counts, chances, randomness=Randomness.poisson, key=(i,)).tolist())
        for i in range(draws)
    )
    orders = set(permutations([0, 0, 0, 1, 1, 2]))
    expected = {order: draws * chance(order, counts, chances) for order in orders}
    assert sum(expected.values()) == pytest.approx(draws)
    distance = sum((raced[order] - e) ** 2 / e for order, e in expected.items())  # chi squared
    assert distance < 59 + 4 * np.sqrt(2 * 59)


def test_the_natural_order_is_a_random_permutation() -> None:
    last = [
        int(race([20, 2], None, randomness=Randomness.poisson, key=(i,))[-1]) for i in range(4000)
    ]
    assert abs(np.mean(last) - 2 / 22) < 5 * np.sqrt(2 / 22 / 4000)


def test_deterministic_arrivals_follow_the_odds() -> None:
    order = race([4, 2], [2.0, 1.0], randomness=Randomness.deterministic, key=())
    assert order.tolist() == [0, 1, 0, 0, 1, 0]
    natural = race([1, 4], None, randomness=Randomness.deterministic, key=())
    assert natural.tolist() == [1, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (CurriculumName.natural, None),
        (CurriculumName.uniform, [1, 1, 1]),
        (CurriculumName.grow_linear, [3, 2, 1]),
        (CurriculumName.grow_p2, [4, 2, 1]),
        (CurriculumName.grow_p100, [10_000, 100, 1]),
        (CurriculumName.shrink_linear, [1, 2, 3]),
        (CurriculumName.shrink_p2, [1, 2, 4]),
        (CurriculumName.shrink_p100, [1, 100, 10_000]),
        (CurriculumName.odds, [5, 1, 7]),
        (CurriculumName.staircase_p2, None),
        (CurriculumName.progressive, None),
        (CurriculumName.window_warmup, [1, 1, 1]),
    ],
)
def test_odds_by_name(name: CurriculumName, expected: list[float] | None) -> None:
    assert odds(CurriculumConfig(name=name, odds=[5, 1, 7]), 3) == expected


def test_a_staircase_climbs_bucket_by_bucket() -> None:
    linear = stairs(CurriculumConfig(name=CurriculumName.staircase_linear), 3)
    assert linear == [[3, 2, 1], [2, 3, 1], [1, 2, 3]]
    assert stairs(CurriculumConfig(), 3) is None
    powers = stairs(CurriculumConfig(name=CurriculumName.staircase_p2), 3)
    assert powers == [[8, 4, 2], [4, 8, 2], [2, 4, 8]]


@pytest.mark.parametrize("randomness", Randomness)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.integers(0, 99))
def test_a_staircase_holds_its_shares_in_every_part(
    randomness: Randomness, counts: list[int], seed: int
) -> None:
    steps = stairs(CurriculumConfig(name=CurriculumName.staircase_linear), len(counts))
    assert steps
    order = race(counts, None, randomness=randomness, key=(seed,), stairs=steps)
    assert np.bincount(order, minlength=len(counts)).tolist() == counts
    parts = [apportion(count, each) for count, each in zip(counts, steps, strict=True)]
    at = 0
    for part in zip(*parts, strict=True):
        here = order[at : at + sum(part)]
        assert np.bincount(here, minlength=len(counts)).tolist() == list(part)
        at += sum(part)


def schedule(
    chances: list[float] | None = None, *, cycle_steps: int = 50, seed: int = 0
) -> Schedule:
    return Schedule(
        [500, 300, 200],
        cycle_steps=cycle_steps,
        odds=chances or [4.0, 2.0, 1.0],
        randomness=Randomness.poisson,
        seed=seed,
    )


def test_ordinals_count_the_steps_of_a_bucket() -> None:
    order = schedule(cycle_steps=17)
    seen = Counter[int]()
    for step in range(24 * 17):
        bucket, ordinal = order[step]
        assert ordinal == seen[bucket]
        seen[bucket] += 1
        assert order.counts(step + 1) == [seen[0], seen[1], seen[2]]
    assert [seen[i] for i in range(3)] == pytest.approx([204, 122, 82], abs=1)


def test_any_step_is_the_same_however_it_is_reached() -> None:
    forward = [schedule()[step] for step in range(1000)]
    jumping = schedule()
    for step in np.random.default_rng(0).permutation(1000):
        assert jumping[int(step)] == forward[step]


def test_lengths_grow_within_a_cycle_and_cycles_differ() -> None:
    order = schedule([100.0, 10.0, 1.0])
    cycles = np.array([order[step][0] for step in range(500)]).reshape(10, 50)
    assert cycles[:, :10].mean() < 0.5
    assert cycles[:, -10:].mean() > 1
    assert len({tuple(cycle) for cycle in cycles}) == 10
    assert [schedule(seed=1)[step] for step in range(50)] != [
        schedule()[step] for step in range(50)
    ]
