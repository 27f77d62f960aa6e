"""The configuration: composed, checked as a whole, written and read back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hydra.errors import HydraException

from lmtrain.config import RunConfig, compose, flat, read, require, to_yaml
from lmtrain.models.config import ModelConfig
from lmtrain.settings.engine import Device, EngineConfig
from lmtrain.settings.generate import GenerateConfig
from lmtrain.settings.logging import LoggingSection
from lmtrain.settings.optim import OptimConfig, Schedule
from lmtrain.settings.run import RunSection, TrainSection

if TYPE_CHECKING:
    from pathlib import Path


def test_groups_and_keys_override_the_defaults() -> None:
    config = compose(["optim=wsd", "optim.lr=0.5", "model.d_model=64"])
    assert (config.optim.schedule, config.optim.lr, config.model.d_model) == (Schedule.wsd, 0.5, 64)


def test_the_defaults_are_valid() -> None:
    assert compose().check(world_size=1) == []
    assert compose().check(world_size=2) == []


@pytest.mark.parametrize(
    "override",
    ["optim.rate=1", "modle=debug", "model=none", "train.steps=1.5", "optim.schedule=square"],
)
def test_unknown_keys_options_and_types_are_refused(override: str) -> None:
    with pytest.raises(HydraException):
        compose([override])


def test_an_added_key_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\+optim\.rate adds a key that nobody reads"):
        compose(["+optim.rate=1"])


def test_written_and_read_back_is_the_same(tmp_path: Path) -> None:
    config = compose(["optim=wsd", "engine=fsdp_bf16", "data.skip_steps=[[3,5]]"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("text", ["optim: {rate: 1}", "optim: {lr: high}", "- 1"])
def test_a_configuration_of_another_version_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match="is not a configuration of this version"):
        read(tmp_path / "config.yaml")


def test_a_length_that_is_none_asks_nothing_of_the_batch() -> None:
    """Else the remedy would fit a length that is refused."""
    (problem,) = compose(["curriculum.max_length=1000"]).check(world_size=1)
    assert problem.startswith("curriculum.max_length=1000 is not a power of two")


def test_check_tells_every_problem_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = compose(
        [
            "model.pattern=GX",
            "model.attention.heads=3",
            "model.sliding_window.window=0",
            "data.val_fraction=2",
            "curriculum.max_length=100",
            "optim.lr=-1",
            "optim.beta2=1.5",
            "train.steps=0",
            "samples.top_p=0",
            "samples.count=-1",
            f"run.dir={tmp_path}/file/run",
        ]
    )
    problems = config.check(world_size=1)
    for word in (
        "'X'",
        "heads",
        "sliding_window.window",
        "data.val_fraction=2",
        "curriculum.max_length=100",
        "optim.lr=-1",
        "optim.beta2=1.5",
        "train.steps=0",
        "samples.top_p=0",
        "samples.count=-1",
        "run.dir=",
    ):
        assert any(word in problem for problem in problems), word
    with pytest.raises(ValueError, match=f"{len(problems)} problems"):
        require(problems)


def test_a_run_needs_a_folder_with_a_name() -> None:
    """An empty path is the folder that one stands in."""
    [problem] = compose(["run.dir="]).check(world_size=1)
    assert problem.startswith("run.dir is empty")


def test_the_folder_of_a_sweep_takes_no_run(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").touch()
    [problem] = compose([f"run.dir={tmp_path}"]).check(world_size=1)
    assert problem.startswith(f"run.dir={tmp_path} holds a sweep")


def test_one_problem_is_told_without_a_count() -> None:
    with pytest.raises(ValueError, match=r"^optim\.clip=0 must be positive and finite$"):
        require(OptimConfig(clip=0.0).check())


def test_tokens_per_step_must_divide_by_the_processes() -> None:
    config = compose(["train.tokens_per_step=3072", "curriculum.max_length=1024"])
    assert config.check(world_size=1) == []
    [problem] = config.check(world_size=2)
    assert "train.tokens_per_step=3072" in problem
    assert "use 2048 or 4096" in problem


def test_wandb_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(logging=LoggingSection(wandb=True))
    assert config.check(world_size=1) == []
    monkeypatch.setattr("lmtrain.settings.logging.find_spec", lambda _: None)
    [problem] = config.check(world_size=1)
    assert "pip install" in problem


def test_every_process_needs_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, auto = EngineConfig(device=Device.cuda), EngineConfig(device=Device.auto)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert [problem.split(",")[0] for problem in cuda.check()] == ["engine.device=cuda"]
    assert auto.check(processes=8) == []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert cuda.check(processes=2) == []
    assert auto.check(processes=3) == ["launch.nproc=3 is more than the 2 GPUs here: lower it"]


def test_checking_makes_no_folder(tmp_path: Path) -> None:
    config = RunConfig(run=RunSection(dir=str(tmp_path / "a" / "b")))
    assert config.check(world_size=1) == []
    assert list(tmp_path.iterdir()) == []


def test_the_vocabulary_is_the_data_s_rounded_up() -> None:
    assert RunConfig().resolved(257).model.vocab_size == 320
    assert RunConfig(model=ModelConfig(vocab_size=300)).resolved(257).model.vocab_size == 300
    with pytest.raises(ValueError, match=r"model\.vocab_size=200 is smaller than the 257"):
        RunConfig(model=ModelConfig(vocab_size=200)).resolved(257)


def test_flat_names_every_leaf() -> None:
    leaves = flat(RunConfig(train=TrainSection(steps=7)))
    assert leaves["train.steps"] == 7
    assert leaves["model.attention.heads"] == 4


def test_generate_needs_a_checkpoint_and_a_prompt() -> None:
    problems = GenerateConfig(prompt="", tokens=0, top_p=2).check()
    assert [problem.split()[0] for problem in problems] == [
        "checkpoint", "prompt", "tokens=0", "top_p=2",
    ]  # fmt: skip
