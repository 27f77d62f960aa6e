"""What observers do with reports."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, nan
from typing import TYPE_CHECKING

import pytest
import torch

from lmtrain.config import RunConfig
from lmtrain.settings.engine import EngineKind, Precision
from lmtrain.settings.logging import LoggingSection, WandbMode
from lmtrain.settings.run import RunSection
from lmtrain.train.device import peak_flops
from lmtrain.train.observers import observers
from lmtrain.train.observers.metrics import Metrics
from lmtrain.train.observers.terminal import terminal
from lmtrain.train.report import NormsReport, StepReport, ValidationReport

if TYPE_CHECKING:
    from pathlib import Path

STEP = StepReport(
    step=10,
    loss=2.5,
    lr=0.1,
    grad_norm=1.0,
    tokens=100,
    length=64,
    tokens_per_second=5000.0,
    mfu=None,
    data_wait=0.0,
    forward_backward=0.5,
    update=0.1,
    sp_bytes=0,
    memory=1,
)
VALIDATION = ValidationReport(
    step=10, val_loss=2.0, val_bits_per_byte=1.5, val_loss_by_length={"64": 2.0}
)


NORMS = NormsReport(
    step=10,
    gradient_norm={"head": nan, "norm": 2.0},
    parameter_norm={"head": 1.0},
    residual_rms={"blocks.0": inf},
    added_rms={},
    state_rms={},
)
"""At a fault."""


def test_metrics_are_lines_of_json(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    for heard in (STEP, VALIDATION, "for a person", NORMS):
        metrics(heard)
    first, second, third = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    metrics.close()
    assert first.keys() == {
        "step", "loss", "lr", "grad_norm", "tokens", "length", "tokens_per_second", "mfu",
        "data_wait", "forward_backward", "update", "sp_bytes", "memory",
    }  # fmt: skip
    assert first["mfu"] is None
    assert second["val_loss_by_length"] == {"64": 2.0}
    assert third["gradient_norm"] == {"head": None, "norm": 2.0}
    assert third["residual_rms"] == {"blocks.0": None}


def test_plain_lines_come_every_few_steps(capsys: pytest.CaptureFixture[str]) -> None:
    tell = terminal(10, first_step=8, steps=30)
    for step in range(9, 31):
        tell(replace(STEP, step=step))
    tell(VALIDATION)
    tell(replace(STEP, stage="logits"))
    tell.close()
    printed = capsys.readouterr().out.splitlines()
    steps = ["9/30", "10/30", "20/30", "30/30", "10", "10/30"]
    assert [line.split()[1] for line in printed] == steps
    assert "loss 2.500  length 64  5,000 tokens/s  ETA 0:00:00" in printed[3]
    assert "validation loss 2.000  1.500 bits per byte  by length  64: 2.000" in printed[4]
    assert "loss 2.500 (logits)  length 64" in printed[5]


def test_only_the_first_rank_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell = observers(RunConfig(run=RunSection(dir=str(tmp_path))), rank=1, first_step=0)
    tell(STEP)
    tell.close()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Something else", None),
    ],
)
def test_peaks_are_known_by_name(
    name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_flops(torch.device("cuda", 0), Precision.bf16) == peak
    assert peak_flops(torch.device("cuda", 0), Precision.fp32) is None
    assert peak_flops(torch.device("cpu"), Precision.bf16) is None


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of wandb's own dependencies
def test_wandb_works_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    logging = LoggingSection(wandb=True, wandb_mode=WandbMode.offline)
    config = RunConfig(run=RunSection(dir=str(tmp_path)), logging=logging)
    for first_step in (0, 9):
        tell = observers(config, rank=0, first_step=first_step)
        for report in (STEP, VALIDATION, NORMS):
            tell(report)
        tell.close()
    identity = (tmp_path / "wandb" / "id").read_text()
    runs = list((tmp_path / "wandb").glob(f"offline-run-*-{identity}/*.wandb"))
    assert runs


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of wandb's own dependencies
def test_wandb_without_a_key_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmtrain.train.observers.wandb import Wandb

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = RunConfig(run=RunSection(dir=str(tmp_path)), logging=LoggingSection(wandb=True))
    with pytest.raises(ValueError, match=r"run `wandb login`, or say logging\.wandb_mode=offline"):
        Wandb(config)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of tensorboard's own dependencies
def test_tensorboard_has_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging = LoggingSection(tensorboard=True)
    config = RunConfig(run=RunSection(dir=str(tmp_path)), logging=logging)
    for first_step, loss in ((9, 9.0), (9, 2.5)):  # the second hides what the first wrote
        tell = observers(config, rank=0, first_step=first_step)
        tell(replace(STEP, loss=loss))
        tell(VALIDATION)
        tell(NORMS)
        tell("for a person")
        tell.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = set(events.Tags()["scalars"])
    assert {"loss", "lr", "grad_norm", "val_loss", "val_loss_by_length/64"} <= found
    assert {"gradient_norm/norm"} == {name for name in found if name.startswith("gradient_norm")}
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 2.5)]


@pytest.mark.parametrize(
    ("logging", "told"),
    [
        (LoggingSection(profile="3"), "logging.profile=3 is not FIRST:COUNT: say 100:3"),
        (LoggingSection(profile="0:1"), "logging.profile=0:1 is not FIRST:COUNT"),
        (LoggingSection(norms_every=0), "logging.norms_every=0 must be at least 1"),
    ],
)
def test_what_cannot_be_logged_is_refused(logging: LoggingSection, told: str) -> None:
    [problem] = logging.check()
    assert problem.startswith(told)


def test_what_can_be_logged_is_not_refused() -> None:
    assert LoggingSection(profile="298:3", norms_every=1).check() == []
    assert list(LoggingSection(profile="298:3").profiled) == [298, 299, 300]


def test_a_profile_ends_with_the_run() -> None:
    logging = LoggingSection(profile="298:3")
    assert logging.check_steps(300, "train.steps=300") == []
    [problem] = logging.check_steps(299, "train.steps=299")
    assert problem.startswith("logging.profile=298:3 ends after train.steps=299: choose")
    assert LoggingSection().check_steps(-3, "train.steps=-3") == []


def test_gradients_that_cannot_be_read_are_not_promised() -> None:
    [problem] = LoggingSection(norms_every=5).check(EngineKind.deepspeed)
    assert problem.startswith("logging.norms_every=5 reads gradients, which DeepSpeed keeps")


@pytest.mark.parametrize("package", ["wandb", "tensorboard"])
def test_a_package_that_is_absent_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmtrain.settings.logging.find_spec", lambda _: None)
    logging = LoggingSection()
    setattr(logging, package, True)
    [problem] = logging.check()
    assert problem.endswith(f"but {package} is not installed: pip install 'lmtrain[{package}]'")
