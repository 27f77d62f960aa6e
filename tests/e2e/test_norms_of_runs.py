"""Norms by part, and profiles: looking changes nothing."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import world
from runs import Run

from lmtrain.config import RunConfig, compose
from lmtrain.train.opening import open_run
from lmtrain.train.trainer import train

NORMS = ("gradient_norm", "parameter_norm", "residual_rms", "added_rms", "state_rms")


def norms(run: Run) -> dict[int, dict[str, Any]]:
    """Norms by step."""
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return {r["step"]: r for r in map(json.loads, lines) if "gradient_norm" in r}


def without_norms(run: Run) -> list[dict[str, Any]]:
    return [report for report in run.metrics if "gradient_norm" not in report]


@pytest.fixture(scope="module")
def watched(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose norms are measured, with a profile."""
    run = Run(tmp_path_factory.mktemp("watched") / "run", tiny)
    assert run.train("logging.norms_every=3", "logging.profile=2:2", "logging.report=true") == 0
    return run


def test_looking_changes_nothing(watched: Run, whole: Run) -> None:
    assert list(norms(watched)) == [3, 6]
    assert without_norms(watched) == whole.metrics
    assert watched.same_state(whole)


def test_a_finished_run_has_its_report(watched: Run) -> None:
    html = (watched.folder / "report.html").read_text()
    assert "finished at step 8 of 8" in html
    assert "Recurrent states after the last document" in html
    assert (watched.folder / "done").exists()


def test_norms_are_those_of_the_parts(watched: Run) -> None:
    found = norms(watched)[6]
    parts = ["embedding", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "norm"]
    assert list(found["gradient_norm"]) == list(found["parameter_norm"]) == parts
    assert list(found["residual_rms"]) == list(found["added_rms"]) == parts[1:5]
    assert set(found["state_rms"]) == {"blocks.0.G", "blocks.2.M"}
    assert all(value > 0 for name in NORMS for value in found[name].values())
    [step] = [r for r in watched.metrics if r["step"] == 6 and "loss" in r]
    whole = sum(norm**2 for norm in found["gradient_norm"].values()) ** 0.5
    assert whole == pytest.approx(step["grad_norm"], rel=1e-6)


def test_a_profile_has_the_steps_of_its_window(watched: Run) -> None:
    folder = watched.folder / "profile"
    assert {path.name for path in folder.iterdir()} == {
        "step_00000002_rank_0.json.gz", "step_00000002_rank_0.txt",
    }  # fmt: skip
    trace = json.loads(gzip.decompress((folder / "step_00000002_rank_0.json.gz").read_bytes()))
    updates = [e for e in trace["traceEvents"] if "AdamW.step" in e.get("name", "")]
    assert len(updates) == 2
    assert "aten::mm" in (folder / "step_00000002_rank_0.txt").read_text()


def train_together(config: RunConfig) -> None:
    """One of two processes."""
    train(open_run(config), world=2, alone=False)


@pytest.mark.parametrize(
    "shared",
    [
        pytest.param("parallel.sequence=2", marks=pytest.mark.slow),
        pytest.param("engine.kind=fsdp train.accumulate=2", marks=pytest.mark.long),
        pytest.param("engine.kind=ddp", marks=pytest.mark.long),
    ],
)
def test_any_number_of_processes_has_the_same_norms(shared: str, watched: Run, run: Run) -> None:
    config = compose([*run.overrides, "logging.norms_every=3", *shared.split()])
    world.run(2, train_together, config)
    ours, theirs = norms(run), norms(watched)
    assert ours.keys() == theirs.keys()
    for step, found in ours.items():
        for name in NORMS:
            assert found[name] == pytest.approx(theirs[step][name], rel=1e-5), name
