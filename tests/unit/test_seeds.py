"""Means over seeds, and what can be told of differences."""

from __future__ import annotations

from itertools import product
from math import sqrt
from pathlib import Path
from random import Random

import pytest

from lmtrain.report.curves import front
from lmtrain.report.keys import ordered, said
from lmtrain.report.points import Point
from lmtrain.report.read import Run
from lmtrain.report.seeds import compare, estimate, groups, t_975


def point(loss: float | None, **keys: str) -> Point:
    dotted = {key.replace("__", "."): value for key, value in keys.items()}
    return Point(Run(folder=Path("run")), dotted, {} if loss is None else {"loss": loss})


def test_points_are_gathered_over_their_seeds() -> None:
    found = groups(
        point(float(seed), model__pattern=p, data__task__name=t, run__seed=str(seed))
        for p, t, seed in product("GA", ("copy", "sort"), range(3))
    )  # fmt: skip
    assert [(g.name, said(g.condition)) for g in found] == [
        ("G", "copy"), ("G", "sort"), ("A", "copy"), ("A", "sort"),
    ]  # fmt: skip
    mean = found[0].estimate("loss")
    assert mean is not None
    assert (mean.mean, mean.error, mean.count) == (1, pytest.approx(1 / sqrt(3)), 3)
    assert found[0].estimate("hours") is None


def test_one_seed_has_no_error() -> None:
    found = estimate([2.0])
    assert found is not None
    assert (found.mean, found.error) == (2.0, None)


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.706), (2, 4.303), (10, 2.228), (11, 2.201), (60, 2.0003)]
)  # fmt: skip
def test_quantiles_are_students(freedom: int, value: float) -> None:
    assert t_975(freedom) == pytest.approx(value, abs=6e-4)


def test_pairs_take_out_what_a_seed_does_to_both() -> None:
    ours = {"0": 1.0, "1": 5.0, "2": 9.0, "3": 2.0}
    theirs = {"2": 10.2, "0": 2.0, "1": 5.8}
    found = compare(ours, theirs)
    assert found is not None
    # differences -1, -0.8, -1.2: deviation 0.2
    half = 4.303 * 0.2 / sqrt(3)
    assert found.count == 3
    assert found.difference == pytest.approx(-1)
    assert found.interval == pytest.approx((-1 - half, -1 + half))
    assert (found.p, found.least) == (0.25, 0.25)


def test_exact_tests_count_every_exchange() -> None:
    paired = compare(
        dict(zip("01234567", [3.0, 1, 4, 1, 5, 9, 2, 6], strict=True)),
        dict(zip("01234567", [2.0, 2, 1, 0, 6, 3, 1, 4], strict=True)),
    )
    differences = [1, -1, 3, 1, -1, 6, 1, 2]
    sums = [sum(s * d for s, d in zip(signs, differences, strict=True))
            for signs in product((1, -1), repeat=8)]  # fmt: skip
    assert paired is not None
    assert paired.p == sum(abs(total) >= 12 for total in sums) / 256
    apart = compare({"0": 1.0, "1": 2.0, "2": 3.0}, {"3": 7.0, "4": 8.0, "5": 9.0})
    assert apart is not None
    assert (apart.count, apart.interval, apart.p, apart.least) == (0, None, 0.1, 0.1)
    uneven = compare({"0": 1.0}, {"3": 7.0, "4": 8.0, "5": 9.0})
    assert uneven is not None
    assert (uneven.p, uneven.least) == (0.25, 0.25)


def test_chance_alone_rarely_gives_a_small_p() -> None:
    """The sign test is exact: p at most 1/8 happens in at most 1/8 of all cases."""
    random = Random(0)
    below = 0
    for _ in range(400):
        a, b = ({str(s): random.gauss(0, 1) for s in range(5)} for _ in range(2))
        found = compare(a, b)
        assert found is not None
        assert found.p is not None
        below += found.p <= 1 / 8
    assert 0.07 < below / 400 < 0.18


def test_one_run_of_each_tells_nothing_of_chance() -> None:
    found = compare({"0": 1.0}, {"0": 3.0})
    assert found is not None
    assert (found.difference, found.p, found.interval) == (-2, None, None)
    assert compare({}, {"0": 1.0}) is None


@pytest.mark.parametrize("most_x", [True, False])
@pytest.mark.parametrize("most_y", [True, False])
def test_the_front_beats_all_others_and_not_itself(*, most_x: bool, most_y: bool) -> None:
    random = Random(1)
    points = [(float(random.randrange(12)), float(random.randrange(12))) for _ in range(60)]
    kept = front(points, most_x=most_x, most_y=most_y)

    def loses(mine: int, other: int) -> bool:
        x, y = ((points[other][i] - points[mine][i]) * (1 if most else -1)
                for i, most in enumerate((most_x, most_y)))  # fmt: skip
        return x >= 0 and y >= 0 and (x, y) != (0, 0)

    for mine in range(60):
        assert (mine in kept) == (not any(loses(mine, other) for other in range(60)))
    assert [points[n][0] for n in kept] == sorted(points[n][0] for n in kept)


def test_values_follow_each_other_as_a_person_expects() -> None:
    assert ordered("optim.lr", ["1e-2", "0.003", "10"]) == ["0.003", "1e-2", "10"]
    stacks = ["A", "GGGA", "[AM]G", "G", "GA", "M", "GGGGGGGA"]
    assert ordered("model.pattern", stacks) == ["G", "M", "GGGGGGGA", "GGGA", "[AM]G", "GA", "A"]
    words = ["+experiment=x", "+data.task.options={a: 1, b: 2},'{c: 3}'", "model=samba,'a,b',jamba"]
    assert ordered("model", ["jamba", "other", "a,b", "samba"], words) == [
        "samba", "a,b", "jamba", "other",
    ]  # fmt: skip


def test_numbers_are_told_with_their_key() -> None:
    assert said({"model.pattern": "GA", "data.task.name": "copy"}) == "GA, copy"
    assert said({"optim.lr": "0.1", "model": "samba", "model.tie": "true"}) == (
        "lr 0.1, samba, tie true"
    )
