from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmtrain.data.config import DataConfig, check_tokens_per_step
from lmtrain.data.curriculum_config import (
    CurriculumConfig,
    CurriculumName,
    OddsScale,
    Remainder,
    ViewName,
)
from lmtrain.data.prepare_config import InputFormat, Mode, PrepareConfig

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("config", [DataConfig(), CurriculumConfig()])
def test_the_defaults_have_no_problem(config: DataConfig | CurriculumConfig) -> None:
    assert config.check() == []


def test_every_problem_is_named_at_once() -> None:
    config = DataConfig(source="", val_fraction=1.5, prefetch=-1, skip_steps=[[5, 3]])
    problems = config.check()
    for key in ("data.source", "data.val_fraction=1.5", "data.prefetch=-1", "data.skip_steps"):
        assert any(problem.startswith(key) for problem in problems), key
    assert len(problems) == 4


@pytest.mark.parametrize("skips", [[[3, 3]], [[1, 2, 3]], [[4, 6], [5, 8]], [[4, 6], [1, 2]]])
def test_skipped_ranges_must_be_in_order(skips: list[list[int]]) -> None:
    assert len(DataConfig(skip_steps=skips).check()) == 1
    assert DataConfig(skip_steps=[[1, 2], [2, 6]]).check() == []


def test_lengths_must_be_powers_of_two_in_order() -> None:
    assert "use 64 or 128" in CurriculumConfig(min_length=100).check()[0]
    assert "is above" in CurriculumConfig(min_length=512, max_length=256).check()[0]
    assert "curriculum.length=0" in CurriculumConfig(length=0).check()[0]
    assert "is above" in CurriculumConfig(length=2048, max_length=1024).check()[0]


def test_odds_must_fit_the_lengths() -> None:
    named = {"name": CurriculumName.odds, "min_length": 64, "max_length": 256}
    assert CurriculumConfig(**named, odds=[3, 2, 1]).check() == []
    for odds in (None, [1.0], [1.0, 0.0, 2.0]):
        (problem,) = CurriculumConfig(**named, odds=odds).check()
        assert "give 3 positive numbers" in problem
        assert "[64, 128, 256]" in problem


def test_keeping_the_remainder_adds_shorter_lengths() -> None:
    config = CurriculumConfig(min_length=64, max_length=128, floor=16, remainder=Remainder.keep)
    assert config.lengths == [16, 32, 64, 128]
    assert "curriculum.floor" in CurriculumConfig(floor=128, remainder=Remainder.keep).check()[0]


def test_tokens_of_a_step_must_be_whole_rows() -> None:
    assert check_tokens_per_step(8192, max_length=1024, accumulate=4, world=2) == []
    (problem,) = check_tokens_per_step(9000, max_length=1024, accumulate=2, world=2)
    assert problem.startswith("train.tokens_per_step=9000")
    assert problem.endswith("use 8192 or 12288")
    assert check_tokens_per_step(10, max_length=64)[0].endswith("use 64")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (PrepareConfig(out="x"), "input is empty"),
        (PrepareConfig(input="x"), "out is empty"),
        (PrepareConfig(input="x", out="y", tokenizer="bpe:"), "tokenizer=bpe: has no size"),
        (PrepareConfig(input="x", out="y", tokenizer="bpe:100"), "257 or more"),
        (PrepareConfig(input="x", out="y", max_errors=-1), "max_errors=-1"),
        (PrepareConfig(mode=Mode.verify, input="x", dry_run=True), "dry_run=True is not for mode="),
        (
            PrepareConfig(
                mode=Mode.import_,
                format=InputFormat.dolma,
                input="x",
                out="y",
                tokenizer="t.json",
                max_documents=3,
            ),
            "max_documents=3 is not for mode=import",
        ),
    ],
)
def test_preparation_names_its_problem(config: PrepareConfig, sentence: str) -> None:
    (problem,) = config.check()
    assert sentence in problem


@pytest.mark.parametrize(
    "path", sorted((CONFIGS / "curriculum").glob("*.yaml")), ids=lambda p: p.stem
)
def test_shipped_curricula_fit_the_schema(path: Path) -> None:
    merged = OmegaConf.merge(OmegaConf.structured(CurriculumConfig), OmegaConf.load(path))
    assert path.stem in (merged.name, merged.view, f"{merged.name}_{merged.long_docs}")


def test_every_curriculum_is_shipped() -> None:
    shipped = {path.stem for path in (CONFIGS / "curriculum").glob("*.yaml")}
    views = {view.value for view in ViewName if view != ViewName.decompose}
    assert shipped == {name.value for name in CurriculumName} | views | {"grow_p2_random"}


@pytest.mark.parametrize("name", ["stdlib", "store"])
def test_shipped_sources_fit_the_schema(name: str) -> None:
    loaded = OmegaConf.load(CONFIGS / "data" / f"{name}.yaml")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), loaded))
    assert isinstance(config, DataConfig)
    assert bool(config.check()) == (name == "store")  # a store must be named


def test_an_unknown_curriculum_is_refused() -> None:
    with pytest.raises(OmegaConfBaseException):
        OmegaConf.merge(OmegaConf.structured(CurriculumConfig), {"name": "grow_p3"})


def test_processes_that_share_a_row_need_equal_spans() -> None:
    assert check_tokens_per_step(8192, max_length=1024, world=2, sequence=8) == []
    assert check_tokens_per_step(6144, max_length=1024, world=2, sequence=3) == []
    (problem,) = check_tokens_per_step(8192, max_length=1024, world=2, sequence=6)
    assert "x 3 (for parallel.sequence=6): use 6144 or 12288" in problem


def curriculum(**keys: Any) -> CurriculumConfig:
    return CurriculumConfig(**{"min_length": 64, "max_length": 256, **keys})


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (curriculum(view=ViewName.concat), "use curriculum.name=fixed or window_warmup"),
        (
            curriculum(view=ViewName.best_fit, name=CurriculumName.fixed, remainder=Remainder.pack),
            "has no use for curriculum.remainder=pack",
        ),
        (
            curriculum(name=CurriculumName.fixed, remainder=Remainder.keep),
            "curriculum.remainder=keep adds shorter lengths",
        ),
        (
            curriculum(name=CurriculumName.natural, odds_scale=OddsScale.bucket_size),
            "curriculum.odds_scale=bucket_size scales odds",
        ),
        (
            curriculum(name=CurriculumName.odds, odds=[3, 2, 1], remainder=Remainder.pack),
            "give 4 positive numbers, one for the rests and each length",
        ),
        (curriculum(name=CurriculumName.progressive), r"curriculum.stages=[] does not fit"),
        (curriculum(name=CurriculumName.progressive, stages=[[9, 512]]), "growing lengths of"),
        (
            curriculum(name=CurriculumName.progressive, stages=[[9, 128], [9, 64]]),
            "growing lengths of",
        ),
        (curriculum(name=CurriculumName.progressive, stages=[[9]]), "does not fit"),
        (curriculum(final_long=1.0), "curriculum.final_long=1.0 is not a share"),
        (
            curriculum(name=CurriculumName.progressive, stages=[[9, 64]], final_long=0.1),
            "curriculum.final_long=0.1 needs buckets",
        ),
        (curriculum(window_rate=0.0), "curriculum.window_rate=0.0 must be positive"),
        (curriculum(window_start=0), "curriculum.window_start=0"),
    ],
)
def test_a_curriculum_names_its_problem(config: CurriculumConfig, sentence: str) -> None:
    (problem,) = config.check()
    assert sentence in problem
