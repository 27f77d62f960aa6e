"""Sweeps without a run: points, folders, what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lmtrain.config import compose, config_dir
from lmtrain.report.points import read_told
from lmtrain.sweep import Point, Sweep, spread
from lmtrain.sweep.folder import claimed, write_error, write_sweep
from lmtrain.sweep.table import print_points

if TYPE_CHECKING:
    from pathlib import Path


def points(*words: str, named: tuple[str, ...] = ()) -> list[Point]:
    return spread(OverridesParser.create().parse_overrides(list(words)), named=named)


def test_every_combination_once_and_the_last_word_on_a_key_wins() -> None:
    found = points("a=1,2", "b.c=x,y,z", "d=5", "a=3,4")
    assert [point.name for point in found] == [
        *("a=3,b.c=x", "a=3,b.c=y", "a=3,b.c=z"),
        *("a=4,b.c=x", "a=4,b.c=y", "a=4,b.c=z"),
    ]
    assert found[0].words == ("a=3", "b.c=x", "d=5")


def test_a_folder_keeps_its_name_when_other_values_are_left_out() -> None:
    every = {point.name for point in points("a=1,2", "b=7", named=("a", "b"))}
    (one,) = points("a=1,2", "b=7", "a=2", named=("a", "b"))
    assert one.name == "a=2,b=7"
    assert one.name in every


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("+model/size=20m,160m", ["model.size=20m", "model.size=160m"]),
        ("model.pattern='(GGGA)2','[AM]'", ["model.pattern=(GGGA)2", "model.pattern=[AM]"]),
        ("hybrid.ratio=3:1,0:1", ["hybrid.ratio=3:1", "hybrid.ratio=0:1"]),
        ("n=range(1,3)", ["n=1", "n=2"]),
    ],
)
def test_names_are_what_a_person_would_write(word: str, names: list[str]) -> None:
    assert [point.name for point in points(word)] == names


def test_no_value_leaves_the_folder_and_no_two_values_share_one() -> None:
    values = ["'/etc/a'", "'../a'", "'a b'", "'a-b'", "'a/b'", f"'{'x' * 300}'", f"'{'x' * 301}'"]
    names = [point.name for point in points(f"data.source={','.join(values)}")]
    assert len(set(names)) == len(values)
    assert not any("/" in name or len(name) > 200 for name in names)


def test_an_interval_is_no_list() -> None:
    with pytest.raises(ValueError, match=r"a=interval\(0,1\) is no list of values: say a=a,b,c"):
        points("a=interval(0,1)")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a=1"], "-m varies nothing: give a key several values"),
        (["a=1,2,1"], "2 points of the sweep are the same, a=1: leave out the repeated value"),
    ],
)
def test_what_would_do_nothing_or_one_thing_twice_never_begins(
    words: list[str], told: str, tmp_path: Path
) -> None:
    sweep = Sweep(folder=str(tmp_path / "sweep"), points=points(*words), words=words)
    with pytest.raises(ValueError, match=told):
        sweep.run(lambda: pytest.fail("it began"), aside=False)
    assert not (tmp_path / "sweep").exists()


def test_torchrun_starts_no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"without torchrun, with launch\.nproc=N"):
        Sweep(folder="none", points=points("a=1,2"), words=["a=1,2"]).check()


def test_two_sweeps_do_not_share_a_folder_and_none_hides_in_a_run(tmp_path: Path) -> None:
    again = pytest.raises(ValueError, match="in use by another sweep")
    with claimed(tmp_path), again, claimed(tmp_path):
        pass
    with claimed(tmp_path):  # it was let go
        (tmp_path / "config.yaml").touch()
    with pytest.raises(ValueError, match="holds a run"):
        write_sweep(tmp_path, {})


def test_the_sweep_says_what_varies(tmp_path: Path) -> None:
    words = ["+experiment=recall", "a=1,2", "b=3"]
    asked = points("x.y=8", *words, named=("x.y",))
    sweep = Sweep(folder=str(tmp_path), points=asked, words=words, experiment="recall")
    write_sweep(tmp_path, sweep.told())
    assert OmegaConf.load(tmp_path / "sweep.yaml") == {
        "name": "recall",
        "overrides": words,
        "keys": ["x.y", "a"],
        "experiment": "recall",
    }


def test_what_varied_in_earlier_commands_still_does(tmp_path: Path) -> None:
    """Else points that differ in it would be taken for seeds of one model."""
    for words in (["model.n_layers=1,2", "run.seed=0,1"], ["run.seed=0,1,2", "optim.lr=1,2"]):
        write_sweep(
            tmp_path, Sweep(folder=str(tmp_path), points=points(*words), words=words).told()
        )
    told = read_told(tmp_path / "sweep.yaml")
    assert told["keys"] == ["model.n_layers", "run.seed", "optim.lr"]
    (tmp_path / "sweep.yaml").write_text("keys: [")
    write_sweep(tmp_path, {"keys": ["a"]})
    assert read_told(tmp_path / "sweep.yaml")["keys"] == ["a"]


def test_failures_stand_below_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = points("a=1,2")
    write_error(tmp_path / "a=2", "a=2 is too much: say a=1")
    assert print_points(tmp_path, asked) == 1
    told = capsys.readouterr().out
    assert "a=2: a=2 is too much: say a=1\n" in told
    assert "0 of 2 points finished, 1 failed: the same command runs the others\n" in told
    assert f"lmtrain report run={tmp_path}" in told


@pytest.mark.parametrize("path", sorted(config_dir().glob("sweep/*.yaml")), ids=lambda p: p.stem)
def test_every_preset_is_of_runs_that_can_begin(path: Path) -> None:
    params: Any = OmegaConf.select(OmegaConf.load(path), "hydra.sweeper.params")
    found = points(*(f"{key}={values}" for key, values in params.items()), named=tuple(params))
    assert len({point.name for point in found}) == len(found) > 1
    for point in (found[0], found[-1]):
        assert compose([f"+sweep={path.stem}", *point.words]).check(1) == []
