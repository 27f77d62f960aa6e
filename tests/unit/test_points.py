"""The points of a sweep, read from folders in every state."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from sweep_folders import leave_point, leave_sweep, task_scores

from lmtrain.config import compose
from lmtrain.models.accounting import ModelCost
from lmtrain.report.points import points, read_sweep
from lmtrain.sweep.folder import forget_error, write_error
from lmtrain.sweep.points import values_of

if TYPE_CHECKING:
    from pathlib import Path

STATES = {"what": "states", "length": 256, "by_position": {"0": 0.5, "128-255": 2.5}}
CONTEXT = {"what": "context", "length": 256, "context": 64, "targets": 9, "loss": 1.25}
TEXT = {
    **{"what": "text", "length": 512, "targets": 9, "loss": 2.5, "bits_per_byte": None},
    "by_position": {"256-511": 2.25},
}


def test_every_measure_has_its_number(tmp_path: Path) -> None:
    scores = [*task_scores({64: 0.75, 256: 1}), STATES, CONTEXT, TEXT]
    leave_point(tmp_path, {"model.pattern": "GGGA", "run.seed": 3}, scores=scores)
    [point] = points(tmp_path, ["flops_to@3.0", "tokens_to@3", "hours_to@2.5", "flops_to@1.5"])
    cost = ModelCost.of(compose(["model=debug", "model.pattern=GGGA", "model.vocab_size=64"]).model)
    flops = 1024 * cost.training_flops_per_token([64])
    assert point.error is None
    assert point.measures == pytest.approx(
        {
            "loss": 2.0,
            "bits_per_byte": 1.0,
            "train_loss": 2.1,
            "tokens": 3072,
            "flops": 3 * flops,
            "hours": 3 * 1.024 / 3600,
            "tokens_per_second": 1000,
            "parameters": cost.total.parameters,
            "state_bytes": cost.total.state_bytes(64),
            **{f"state_bytes@{n}": cost.total.state_bytes(n) for n in (64, 256, 512)},
            **{"answers@64": 0.75, "rows@64": 0.375, "answers@256": 1, "rows@256": 0.5},
            **{"states@256": 2.5, "context_loss@256:64": 1.25, "text_loss@512": 2.5},
            "place_loss@512:256-511": 2.25,
            **{"flops_to@3.0": 2 * flops, "tokens_to@3": 2048, "hours_to@2.5": 3 * 1.024 / 3600},
        }
    )


def test_what_was_spent_follows_changes_of_the_batch_and_the_teacher(tmp_path: Path) -> None:
    taught = {"distill.teacher": str(leave_point(tmp_path / "t", {"model.pattern": "A"}))}
    folder = leave_point(tmp_path / "s", {"model.pattern": "G", **taught}, losses=())
    steps = [
        {"step": 1, "loss": 3.0, "tokens": 512, "length": 64, "stage": "layers"},
        {"step": 2, "loss": 2.0, "tokens": 1024, "length": 64, "stage": "text"},
        {"step": 3, "loss": 1.0, "tokens": 3072, "length": 64},
        {"step": 2, "loss": 2.0, "tokens": 1024, "length": 64},  # after a step back
        {"step": 5, "loss": 1.0, "tokens": 7168, "length": 64},
    ]
    lines = [json.dumps({**step, "tokens_per_second": 1024.0}) + "\n" for step in steps]
    (folder / "metrics.jsonl").write_text("".join(lines))
    [point] = points(tmp_path / "s")
    student, teacher = (
        ModelCost.of(compose(["model=debug", f"model.pattern={p}", "model.vocab_size=64"]).model)
        for p in "GA"
    )
    tokens = 512 + 512 + 2048 + 512 + 2048
    asked = 512 * teacher.total.flops_per_token([64])
    flops = tokens * student.training_flops_per_token([64]) + asked
    assert point.measures["flops"] == pytest.approx(flops)
    assert point.measures["hours"] == pytest.approx(tokens / 1024 / 3600)


def test_thresholds_come_from_the_claims_of_the_run(tmp_path: Path) -> None:
    leave_point(tmp_path, {"run.seed": 0, "findings": [{"measure": "tokens_to@3.5", "than": 3}]})
    [point] = points(tmp_path)
    assert point.measures["tokens_to@3.5"] == 2048


def test_keys_are_those_of_the_sweep(tmp_path: Path) -> None:
    keys = ["+model", "model.pattern", "data/task", "optim", "run.seed"]
    sweep = leave_sweep(tmp_path / "s", keys)
    leave_point(sweep, {"model.name": "samba", "model.pattern": "[AM]G", "optim.lr": 0.01})
    leave_point(sweep, {"model.name": "jamba", "data.task.lengths": [16, 32], "run.seed": 1})
    jamba, samba = (point.keys for point in points(sweep))
    assert jamba == {
        "model": "jamba", "model.pattern": "GWMA", "data.task": "lengths [16,32]",
        "optim": "lr 0.005", "run.seed": "1",
    }  # fmt: skip
    assert samba == {
        "model": "samba", "model.pattern": "[AM]G", "data.task": "lengths [64,128,256]",
        "optim": "lr 0.01", "run.seed": "0",
    }  # fmt: skip


def test_options_of_a_group_that_share_a_name_are_told_apart(tmp_path: Path) -> None:
    sweep = leave_sweep(tmp_path / "s", ["curriculum"])
    for option in ("concat", "concat_masked"):
        values = {"curriculum.name": "fixed", "curriculum.view": option}
        leave_point(sweep, values).rename(sweep / f"curriculum={option}")
    told = [point.keys for point in points(sweep)]
    assert told == [{"curriculum": "concat"}, {"curriculum": "concat_masked"}]


def test_without_the_words_of_the_sweep_keys_are_what_differs(tmp_path: Path) -> None:
    for seed in (0, 1):
        leave_point(tmp_path, {"model.pattern": "GA", "run.seed": seed})
    assert [point.keys for point in points(tmp_path)] == [{"run.seed": "0"}, {"run.seed": "1"}]


def test_points_in_every_state_are_read(tmp_path: Path) -> None:
    sweep = leave_sweep(tmp_path / "s", ["model.pattern", "data.task.lengths"])
    cut = leave_point(sweep, {"model.pattern": "A"}, error="step 3: the loss is not finite\n")
    with (cut / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 4, "lo')
    (cut / "scores.json").write_text('{"scores": [')
    (cut / "checkpoints" / "step_1").mkdir(parents=True)
    (cut / "checkpoints" / "step_1" / "config.yaml").write_text("")
    never = sweep / 'model.pattern="GX",data.task.lengths=[16,32]'
    never.mkdir()
    (never / "error.txt").write_text("model.pattern=GX: unknown letter")
    (sweep / "model.pattern=M").mkdir()
    second, first = points(sweep)
    assert first.error == "step 3: the loss is not finite"
    assert first.measures["loss"] == 2
    assert len(first.run.notes) == 2
    assert second.keys == {"model.pattern": "GX", "data.task.lengths": "[16,32]"}
    assert second.measures == {}
    assert second.error == "model.pattern=GX: unknown letter"


def test_a_failed_point_has_the_values_that_were_asked(tmp_path: Path) -> None:
    sweep = leave_sweep(tmp_path / "s", ["model.pattern", "data.source"])
    cut, dated, told = (
        sweep / f"model.pattern={pattern},data.source={source}"
        for pattern, source in (("X-X", "c-ab-b58e61b4"), ("X", "c-20240101"), ("A", "-[-1a2b3c4d"))
    )
    for folder in (cut, dated):
        write_error(folder, "it failed")
    (dated / "asked.json").write_text("[")
    write_error(told, "it failed", values_of(["+model.pattern='A/A'", "data/source=c/ab"]))
    found = {(p.keys["model.pattern"], p.keys["data.source"]) for p in points(sweep)}
    assert found == {("X-X", "c-ab"), ("X", "c-20240101"), ("A/A", "c/ab")}
    forget_error(told)
    assert not any(told.iterdir())


@pytest.mark.parametrize("told", ["", "\x00", "- 1", "keys: 3\nname: null", "keys: [", "a"])
def test_a_damaged_record_of_the_sweep_is_no_obstacle(told: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(told)
    sweep = read_sweep(tmp_path)
    assert (sweep.name, sweep.keys, sweep.points) == (tmp_path.name, [], [])
    for pattern in ("G", "A"):
        leave_point(tmp_path, {"model.pattern": pattern}, losses=())
    assert [p.keys for p in points(tmp_path)] == [{"model.pattern": "G"}, {"model.pattern": "A"}]


@pytest.mark.parametrize(
    "scores",
    ["3", '{"scores": [3, {"what": "text"}, {"what": "states", "by_position": {}}]}', "[" * 9999],
)
def test_scores_of_another_version_are_read_as_far_as_they_go(scores: str, tmp_path: Path) -> None:
    run = leave_point(tmp_path, {"run.seed": 0})
    (run / "scores.json").write_text(scores)
    [point] = points(tmp_path)
    assert not [name for name in point.measures if "@" in name]


def test_a_configuration_of_another_version_costs_only_what_needs_it(tmp_path: Path) -> None:
    run = leave_point(tmp_path, {"run.seed": 0})
    (run / "config.yaml").write_text("model: {pattern: A, gone: 1}")
    [point] = points(tmp_path)
    assert point.measures.keys() == {
        "loss", "bits_per_byte", "train_loss", "tokens", "hours", "tokens_per_second",
    }  # fmt: skip


def test_no_folder_is_a_sentence(tmp_path: Path) -> None:
    assert points(tmp_path) == []
    with pytest.raises(ValueError, match="is not a folder: give the run.dir of a sweep"):
        points(tmp_path / "none")
