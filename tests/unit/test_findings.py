"""Claims about sweeps: checked as configuration, judged against points."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from omegaconf.errors import OmegaConfBaseException

from lmtrain.config import RunConfig, read, to_yaml
from lmtrain.report.findings import judge
from lmtrain.report.points import Point
from lmtrain.report.read import Run
from lmtrain.settings.findings import Claim, Relation
from lmtrain.train.folder import _differences

if TYPE_CHECKING:
    from collections.abc import Mapping

ATTENTION, LINEAR = {"model.pattern": "A"}, {"model.pattern": "G"}


def point(keys: Mapping[str, str], *, error: str | None = None, **measures: float) -> Point:
    """A run without a folder; ``answers_64`` stands for ``answers@64``."""
    run = Run(folder=Path("run"), finished=True, config={"model.d_model": 64, "optim.lr": 3e-3})
    named = {name.replace("_", "@"): value for name, value in measures.items()}
    return Point(run=run, keys={**keys}, measures=named, error=error)


def claim(**words: Any) -> Claim:
    return Claim(**{"says": "it is so", "measure": "answers@64", "of": ATTENTION, **words})


POINTS = [
    point({"model.pattern": "A", "run.seed": "0"}, answers_64=1.0, answers_256=0.5),
    point({"model.pattern": "A", "run.seed": "1"}, answers_64=0.9, answers_256=0.25),
    point({"model.pattern": "G", "run.seed": "0"}, answers_64=0.5),
    point({"model.pattern": "G", "run.seed": "1"}, answers_64=0.25),
    point({"model.pattern": "M", "run.seed": "0"}, error="the loss is not finite"),
]


@pytest.mark.parametrize(
    ("words", "holds", "right"),
    [
        ({"than": LINEAR}, True, 0.375),
        ({"than": LINEAR, "by": 0.575}, True, 0.375),
        ({"than": LINEAR, "by": 0.58}, False, 0.375),
        ({"than": LINEAR, "relation": Relation.below}, False, 0.375),
        ({"than": 1, "relation": Relation.below, "by": 0.05}, True, 1),
        ({"than": 1, "relation": Relation.below, "by": 0.06}, False, 1),
        ({"than": 1, "by": -0.05}, True, 1),
        ({"than": 0.92, "relation": Relation.within, "by": 0.04}, True, 0.92),
        ({"than": 0.92, "relation": Relation.within, "by": 0.02}, False, 0.92),
        ({"than": 0.98, "relation": Relation.within, "by": 0.02}, False, 0.98),
        ({"than": LINEAR, "times": 2, "by": 0.19}, True, 0.75),
        ({"than": LINEAR, "times": 2, "by": 0.21}, False, 0.75),
        ({"than": ATTENTION, "than_measure": "answers@256"}, True, 0.375),
    ],
)
def test_means_over_seeds_are_compared(words: dict[str, Any], holds: object, right: float) -> None:
    [found] = judge(POINTS, [claim(**words)])
    assert found.holds is holds
    assert found.left == pytest.approx(0.95)
    assert found.right == pytest.approx(right)


def test_the_text_has_both_numbers_their_spread_and_what_was_claimed() -> None:
    [found] = judge(POINTS, [claim(than=LINEAR, by=0.7)])
    assert found.text == (
        "answers@64 of model.pattern=A is 0.950 (2 runs, 0.900 to 1.000); "
        "answers@64 of model.pattern=G is 0.375 (2 runs, 0.250 to 0.500); claimed: at least 1.075"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"of": {"model.pattern": "W"}}, "answers@64 of model.pattern=W: there is no such run"),
        ({"of": {"model.pattern": "M"}}, "answers@64 of model.pattern=M: missing in 1 of 1 run"),
        ({"of": {}}, "answers@64 of all runs: missing in 1 of 5 runs"),
        ({"than": LINEAR, "measure": "answers@256"}, "model.pattern=G: missing in 2 of 2 runs"),
    ],
)
def test_what_is_missing_is_told_and_nothing_is_concluded(words: Any, told: str) -> None:
    [found] = judge(POINTS, [claim(**words)])
    assert (found.holds, found.left, found.right) == (None, None, None)
    assert told in found.text


@pytest.mark.parametrize("value", [2, 2.0, "2", "2.0", "2e0"])
def test_a_value_is_the_same_however_it_is_written(value: object) -> None:
    runs = [point({"model.beta": said}, answers_64=float(said)) for said in ("2.0", "1.0")]
    [found] = judge(runs, [claim(of={"model.beta": value}, than=1.5)])
    assert found.left == 2


@pytest.mark.parametrize(
    ("which", "count"),
    [
        ({"model.flag": True}, 1),
        ({"model.lengths": [16, 32]}, 1),
        ({"model.none": None}, 1),
        ({"model.d_model": 64}, 1),
        ({"model.d_model": 64, "optim.lr": 0.001}, 0),
        ({"model.unknown": 1}, 0),
    ],
)
def test_points_are_found_by_every_kind_of_value(which: dict[str, Any], count: int) -> None:
    keys = {"model.flag": "true", "model.lengths": "[16,32]", "model.none": "null"}
    [found] = judge([point(keys, answers_64=1.0)], [claim(of=which)])
    assert (found.left is not None) == count


def test_no_points_and_no_claims() -> None:
    assert judge([], []) == []
    assert [found.holds for found in judge([], [claim(), claim(than=LINEAR)])] == [None, None]


def test_claims_are_written_read_and_change_no_run(tmp_path: Path) -> None:
    config = RunConfig(findings=[claim(than=LINEAR, relation=Relation.within), claim(than=0.5)])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read(tmp_path / "config.yaml") == config
    assert config.check(world_size=1) == []
    assert _differences(RunConfig(), config) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"says": ""}, r"findings\[1\]\.says is empty"),
        ({"measure": ""}, r"findings\[1\]\.measure is empty"),
        ({"than": "G"}, r"findings\[1\]\.than=G is neither points nor a number"),
        ({"than": None}, "than=None is neither"),
        ({"than": True}, "than=True is neither"),
        ({"than": ATTENTION}, "is what it is compared with"),
        ({"than": 1, "than_measure": "loss"}, "than_measure=loss has no points"),
        ({"relation": Relation.within, "by": -0.1}, r"by=-0\.1 can be no distance"),
    ],
)
def test_claims_that_say_nothing_are_refused(words: dict[str, Any], told: str) -> None:
    sound = claim(than=LINEAR)
    assert RunConfig(findings=[sound]).check(world_size=1) == []
    problems = RunConfig(findings=[sound, claim(**words)]).check(world_size=1)
    assert len(problems) == 1
    with pytest.raises(ValueError, match=told):
        raise ValueError(problems[0])


def test_an_unknown_relation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("findings: [{says: a, measure: loss, relation: beyond}]")
    with pytest.raises(ValueError, match="relation") as refused:
        read(path)
    assert isinstance(refused.value.__cause__, OmegaConfBaseException)
