from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtrain.data.curriculum import Schedule, apportion
from lmtrain.data.curriculum_config import Randomness
from lmtrain.data.opening import final_long, stages

weights = st.lists(st.integers(1, 10**6), min_size=1, max_size=8)


def schedule(opening: list[list[int]], shares: list[int], cycle_steps: int = 7) -> Schedule:
    return Schedule(
        shares,
        cycle_steps=cycle_steps,
        odds=[1.0] * len(shares),
        randomness=Randomness.poisson,
        seed=0,
        opening=opening,
    )


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any), max_size=4),
    st.integers(0, 60),
)
def test_cycles_follow_an_opening(opening: list[list[int]], steps: int) -> None:
    order = schedule(opening, [500, 300, 200])
    assert order.has_opening == bool(opening)
    seen = Counter[int]()
    ends = [0]
    for counts in opening:
        ends.append(ends[-1] + sum(counts))
    for step in range(steps):
        bucket, ordinal = order[step]
        assert ordinal == seen[bucket]
        assert order.counts(step) == [seen[0], seen[1], seen[2]]
        if step in ends[: len(opening) + 1]:
            before = [sum(part) for part in zip(*opening[: ends.index(step)], strict=True)]
            assert order.counts(step) == (before or [0, 0, 0])
        if step >= ends[-1]:
            ends.append(ends[-1] + 7)
        assert order.cycle_end(step) == (
            step if step in ends[:-1] else min(e for e in ends if e > step)
        )
        seen[bucket] += 1


@given(weights, st.integers(1, 500), st.floats(0, 0.99), st.integers(1, 100))
def test_the_end_of_a_run_is_long_and_its_shares_are_kept(
    shares: list[int], steps: int, part: float, cycle_steps: int
) -> None:
    final = round(part * steps)
    *cycles, end = final_long(shares, steps=steps, final=final, cycle_steps=cycle_steps)
    assert sum(end) == final
    assert sum(map(sum, cycles)) == steps - final
    assert all(count >= 0 for cycle in [*cycles, end] for count in cycle)
    sizes = {sum(cycle) for cycle in cycles}
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert not sizes or max(sizes) <= cycle_steps
    enough = [n for n in range(len(shares)) if sum(shares[n:]) * steps >= final * sum(shares)]
    assert not any(end[: max(enough)])
    for share, counts in zip(shares, zip(*cycles, end, strict=True), strict=True):
        assert abs(sum(counts) - Fraction(steps * share, sum(shares))) < 2


def test_as_few_of_the_longest_buckets_as_are_enough() -> None:
    shares = [50, 30, 20]
    assert final_long(shares, steps=100, final=20, cycle_steps=40)[-1] == [0, 0, 20]
    assert final_long(shares, steps=100, final=25, cycle_steps=40)[-1] == [0, 15, 10]
    assert final_long(shares, steps=100, final=20, cycle_steps=40)[:-1] == [[25, 15, 0]] * 2


@given(weights, st.integers(0, 10**6))
def test_apportioning_is_by_largest_remainder(shares: list[int], total: int) -> None:
    parts = apportion(total, shares)
    assert sum(parts) == total
    exact = [Fraction(total * share, sum(shares)) for share in shares]
    assert all(abs(part - e) < 1 for part, e in zip(parts, exact, strict=True))
    more = [e - int(e) for part, e in zip(parts, exact, strict=True) if part > e]
    less = [e - int(e) for part, e in zip(parts, exact, strict=True) if part <= e and e != int(e)]
    assert not more or not less or min(more) >= max(less)


LENGTHS = [64, 128, 256]


def test_a_stage_draws_short_pieces_and_the_rest_of_the_pass_what_is_left() -> None:
    pass_ = [6000, 8000, 10000]
    found = stages([[2000, 64], [6000, 128]], pass_, pass_, LENGTHS, tokens_per_step=100)
    assert found[0] == [20, 0, 0]
    assert found[1] == [20, 40, 0]
    assert found[2] == [20, 40, 100]
    assert len(found) == 3


def test_a_stage_longer_than_its_pieces_begins_another_epoch() -> None:
    found = stages([[1500, 64]], [600, 600, 600], [600, 600, 600], LENGTHS, tokens_per_step=100)
    assert found == [[15, 0, 0], [3, 6, 6]]  # two and a half epochs, and the rest of the third


@given(
    st.lists(st.integers(100, 9000), min_size=3, max_size=3),
    st.lists(st.tuples(st.integers(1, 9000), st.sampled_from(LENGTHS)), min_size=1, max_size=3),
)
def test_stages_draw_what_they_may(pass_: list[int], config: list[tuple[int, int]]) -> None:
    config = sorted(config, key=lambda stage: stage[1])
    found = stages(config, pass_, pass_, LENGTHS, tokens_per_step=100)
    drawn = [[length <= top for length in LENGTHS] for _, top in config]
    asked = [tokens // 100 for tokens, _ in config]
    assert [sum(counts) for counts in found][: len([n for n in asked if n])] == [
        n for n in asked if n
    ]
    for counts, allowed in zip(
        found, [d for d, n in zip(drawn, asked, strict=True) if n], strict=False
    ):
        assert not any(count for count, here in zip(counts, allowed, strict=True) if not here)


def test_a_stage_without_pieces_is_refused() -> None:
    with pytest.raises(ValueError, match=r"curriculum.stages=\[\[100, 32\], ...\] has no pieces"):
        stages([[100, 32]], [100], [100], [64], tokens_per_step=10)
