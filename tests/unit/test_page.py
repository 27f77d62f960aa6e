"""Reports of runs, made from folders in every state."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pages import check

from lmtrain.config import compose, to_yaml
from lmtrain.report import read, report, summary, write_page
from lmtrain.report.chart import Chart, Series, running_mean, thin
from lmtrain.report.charts import charts
from lmtrain.report.facts import command
from lmtrain.report.read import find_runs
from lmtrain.report.svg import draw
from lmtrain.settings.report import ReportConfig

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&$x_1$ </svg></style>"
START = {
    "step": 0, "started": "2026-01-01T00:00:00+00:00", "parameters": 1_234_567, "processes": 2,
    "device": "a card", "version": "1", "torch": "2",
}  # fmt: skip


def step(number: int, **more: Any) -> dict[str, Any]:
    return {
        "step": number, "loss": 8 / number**0.5, "lr": 1e-3, "grad_norm": 1.0,
        "tokens": 256 * number, "length": 2 ** (4 + number % 3), "tokens_per_second": 1000.0,
        "mfu": 0.4, "data_wait": 0.001, "forward_backward": 0.2, "update": 0.1,
        "sp_bytes": 2**20, "memory": 2**30, "sources": {"web": 0.7, "code": 0.3}, **more,
    }  # fmt: skip


def validation(number: int) -> dict[str, Any]:
    losses = {"16": 3.0, "32": 2.5}
    return {
        "step": number,
        "val_loss": 2.75,
        "val_bits_per_byte": 1.5,
        "val_loss_by_length": losses,
    }


def norms(number: int) -> dict[str, Any]:
    parts = {f"blocks.{n}": 1.0 + n for n in range(12)}
    names = ("gradient_norm", "parameter_norm", "residual_rms", "added_rms", "state_rms")
    return {"step": number, **dict.fromkeys(names, parts)}


LINES = [
    START,
    *(step(n) for n in range(1, 31)),
    *(validation(n) for n in (10, 20, 30)),
    *(norms(n) for n in (10, 20, 30)),
    {"step": 12, "fault": "the loss is nan", "back": 8, "faults": 1},
    {**START, "step": 20},
]


FEW = [{k: line[k] for k in ("step", "loss", "tokens")} for line in LINES[1:10]]
"""Steps with little to draw."""


@cache
def written(overrides: tuple[str, ...]) -> str:
    """A configuration as a run writes it."""
    return to_yaml(compose([*overrides]))


def leave(folder: Path, lines: list[dict[str, Any]], overrides: tuple[str, ...] = ()) -> Path:
    """A run folder with these lines."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(written(overrides))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def text_of(folder: Path) -> str:
    """The page, and every check that any page must pass."""
    html = write_page([read(folder)]).read_text()
    check(html)
    return html


def test_a_whole_run_has_every_picture(tmp_path: Path) -> None:
    folder = leave(tmp_path / "run", LINES, ("train.steps=30",))
    (folder / "samples").mkdir()
    (folder / "samples" / "step_00000030_0.txt").write_text("once upon")
    html = text_of(folder)
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert len(titles) == len(set(titles)) == html.count("<svg") == 17
    for title in (
        "Loss", "Training loss by length", "Validation loss by length", "Length of pieces",
        "Tokens by source so far", "Speed", "Model FLOPs utilisation", "Peak memory",
        "Sent for shared rows, by step", "Phases of a step (host)", "Learning rate",
        "Recurrent states after the last document",
    ):  # fmt: skip
        assert title in titles
    for said in ("once upon", "1.23 M parameters", "2 × a card", "restarts", "the loss is nan"):
        assert said in html
    # text stays text, in the colours of the page
    assert ">blocks.0</text>" in html
    assert "currentColor" in html
    assert "#c0ff" not in html
    assert "#c1f0" not in html


def test_what_a_run_does_not_have_is_left_out(tmp_path: Path) -> None:
    lines = [{k: v for k, v in step(n).items() if k in ("step", "loss", "tokens")} for n in (1, 2)]
    html = text_of(leave(tmp_path / "run", lines))
    assert re.findall(r"<figcaption>(.*?)</figcaption>", html) == ["Loss"]
    assert "Samples" not in html
    assert "nan" not in html.lower()


def test_nothing_from_data_or_configuration_becomes_markup(tmp_path: Path) -> None:
    lines = [
        {**START, "device": HOSTILE, "version": HOSTILE, "torch": HOSTILE},
        *({**line, "sources": {HOSTILE: 0.5, "_hidden": 0.5}} for line in FEW[:3]),
        {**validation(2), "val_loss_by_length": {HOSTILE: 1.0}},
        {**norms(2), "state_rms": {HOSTILE: 1.0}},
        {"step": 3, "fault": HOSTILE, "back": 3, "faults": 1},
    ]
    folder = leave(tmp_path / HOSTILE.replace("/", "_"), lines)
    (folder / "config.yaml").write_text(
        json.dumps({"model": {"pattern": HOSTILE}, "data": {"source": HOSTILE, HOSTILE: HOSTILE}})
    )
    (folder / "samples").mkdir()
    (folder / "samples" / "a<b>.txt").write_text(HOSTILE)
    html = text_of(folder)
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 5
    (folder / "metrics.jsonl").write_text(json.dumps(FEW[0]))
    check(write_page([read(folder), read(folder)], str(tmp_path / "two.html")).read_text())


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 31, "loss": 2.0, "tok',
        "\x00\xff",
        "[1, 2]",
        "[" * 100_000,
        '{"loss": 1.0}',
        '{"step": "31", "loss": 1.0}',
    ],
)
def test_a_damaged_line_is_told_and_the_rest_is_shown(line: str, tmp_path: Path) -> None:
    folder = leave(tmp_path / "run", FEW)
    with (folder / "metrics.jsonl").open("a", encoding="latin-1") as file:
        file.write(line)
    run = read(folder)
    assert len(run.steps) == 9
    assert "a line of metrics.jsonl cannot be read: cut short, or damaged" in "\n".join(
        summary(run)
    )
    assert "cut short, or damaged" in text_of(folder)


def test_lines_of_another_version_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    odd: list[dict[str, Any]] = [
        {"step": 31, "loss": None},
        {"step": 31, "loss": "high", "length": "long", "sources": 3, "memory": {}},
        {"step": 31, "loss": float("nan"), "grad_norm": float("inf"), "tokens": 99},
        {"step": 31, "val_loss": None, "val_loss_by_length": {"16": None}},
        {"step": 99, "val_loss": 2.0, "val_bits_per_byte": None, "val_loss_by_length": {"16": 1}},
        {"step": 31, "gradient_norm": {"embedding": float("nan")}},
        {"step": 31, "started": None, "parameters": "many"},
        {"step": 31, "somewhere": "else"},
    ]
    assert text_of(leave(tmp_path / "run", [*FEW, *odd])).count("<svg") == 1
    for number, line in enumerate(odd):
        alone = read(leave(tmp_path / str(number), [line]))
        assert all(summary(alone))
        assert charts([alone]) == []


def test_an_empty_run_is_a_sentence(tmp_path: Path) -> None:
    folder = leave(tmp_path / "run", [])
    assert "no step was reported yet of 300" in "\n".join(summary(read(folder)))
    assert "<svg" not in text_of(folder)


@pytest.mark.parametrize("config", [None, "model: [", "- 1", "\x00"])
def test_without_its_configuration_a_run_still_has_curves(
    config: str | None, tmp_path: Path
) -> None:
    folder = leave(tmp_path / "run", FEW)
    (folder / "config.yaml").unlink()
    if config is not None:
        (folder / "config.yaml").write_text(config)
    run = read(folder)
    assert "config.yaml cannot be read" in "\n".join(summary(run))
    assert len(charts([run])) == 1
    assert run.config == {}


def test_several_runs_lie_over_each_other(tmp_path: Path) -> None:
    for rate in ("0.1", "0.2"):
        leave(tmp_path / "sweep" / f"optim.lr={rate}", FEW, (f"optim.lr={rate}",))
    named = [str(tmp_path / "sweep" / f"optim.lr={rate}") for rate in ("0.1", "0.2")]
    report(ReportConfig(run=named, out=str(tmp_path / "page.html")))
    html = (tmp_path / "page.html").read_text()
    check(html)
    assert html.count(f">{tmp_path}/sweep/optim.lr=0.2</text>") == 1
    assert "<tr><th>optim.lr</th><td>0.1</td><td>0.2</td></tr>" in html
    assert [run.name for run in find_runs(named)] == named
    assert write_page(find_runs(named)) == tmp_path / "sweep" / "report.html"


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    for value in (None, "", [], ["a", ""]):
        with pytest.raises(ValueError, match="run is not set: say run=runs/default"):
            report(ReportConfig(run=value))
    with pytest.raises(ValueError, match="is not a folder: give a run folder"):
        report(ReportConfig(run=str(tmp_path / "none")))
    with pytest.raises(ValueError, match="holds no run: give the run.dir of a training"):
        report(ReportConfig(run=str(tmp_path)))
    folder = leave(tmp_path / "run", LINES[:3])
    with pytest.raises(ValueError, match=r"out=.* cannot be written"):
        report(ReportConfig(run=str(folder), out=str(tmp_path / "none" / "page.html")))


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model=jamba", "model/size=1b", "data.skip_steps=[[1,2],[5,9]]", "optim.clip=null"),
        ('model.pattern="([AM]G)2-"', 'samples.prompt="it\'s \\"so\\", $x"', "optim.lr=1e-7"),
        ("data=mixture", "data.sources.web.path=a b", "+data.sources.more={path: c, weight: 2.0}"),
        ("run.weights='модель/x'", 'samples.prompt=".5"', 'data.source="a\\\\\n"'),
        ("logging.profile=10:3", "curriculum=staircase_p2", 'run.dir="runs/lr=1,x=2"'),
    ],
)
def test_the_command_composes_the_run_again(overrides: tuple[str, ...], tmp_path: Path) -> None:
    folder = leave(tmp_path / "run", LINES, overrides)
    lmtrain, train, *words = shlex.split(command(read(folder)))
    assert (lmtrain, train) == ("lmtrain", "train")
    config = compose([*overrides])
    config.run.dir = str(folder)
    assert compose(words) == config


def test_means_of_neighbours_keep_sum_and_range() -> None:
    x, y = np.arange(10_001.0), np.sin(np.arange(10_001) / 500)
    xs, ys, low, high = thin(list(x), list(y), 300)
    assert len(xs) == 300
    assert np.all((low <= ys) & (ys <= high))
    assert low.min() == y.min()
    assert high.max() == y.max()
    assert np.all(np.abs(np.sin(xs / 500) - ys) < 1e-3)
    assert len(thin([1.0, 2.0], [float("nan"), float("inf")])[0]) == 0


def test_the_running_mean_follows() -> None:
    assert np.allclose(running_mean(np.full(50, 3.0), 10), 3.0)
    values = np.concatenate([np.zeros(100), np.ones(100)])
    means = running_mean(values, 10)
    assert means[0] == 0
    assert means[99] == 0
    assert 0.6 < means[109] < 0.7  # 1 - 0.9^10
    assert running_mean(np.array([5.0]), 0.05)[0] == 5.0


def test_a_million_steps_are_a_small_picture() -> None:
    numbers = list(np.random.default_rng(0).normal(size=1_000_000))
    series = Series(label="loss", x=range(1_000_000), y=numbers, smooth=True)
    assert len(draw(Chart(title="Loss", x="step", y="nats", series=[series]))) < 60_000


def test_a_picture_without_numbers_is_left_out(tmp_path: Path) -> None:
    assert charts([read(leave(tmp_path / "run", [START]))]) == []


def test_it_is_light_until_there_is_something_to_draw() -> None:
    code = "import sys, lmtrain.report; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
