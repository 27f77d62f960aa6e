"""The report of sweeps: its page, its table, its pictures and its words."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from pages import check
from sweep_folders import leave_point, leave_sweep, task_scores

from lmtrain.report import heat, report
from lmtrain.report.points import Sweep, read_sweep
from lmtrain.report.study import Study, study_of
from lmtrain.report.sweep_page import SCRIPT, sweep_page
from lmtrain.settings.report import ReportConfig

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&$x_1$"
CLAIMS = [
    {"says": "attention recalls", "measure": "answers@64",
     "of": {"model.pattern": "A", "data.task.name": "mqar"},
     "than": {"model.pattern": "G", "data.task.name": "mqar"}, "by": 0.3},
    {"says": "and copies", "measure": "answers@64",
     "of": {"model.pattern": "A", "data.task.name": "copy"}, "than": 0.5},
    {"says": "cheaply", "measure": "flops_to@2.5", "relation": "below", "than": 1.0,
     "of": {"model.pattern": "A", "data.task.name": "mqar"}},
]  # fmt: skip
KEYS = ["model.pattern", "data.task.name", "run.seed"]
RECALL = {"G": 0.3, "GGGA": 0.8, "A": 0.9}
ENDS = {"what": "states", "length": 256, "by_position": {"0": 0.5, "1": 0.6, "128-255": 2.5}}
SEEN = [{"what": "context", "length": 256, "context": c, "loss": 3 / c} for c in (64, 256)]


def ratio(folder: Path) -> Path:
    """Three stacks, two tasks, two seeds; one run failed and one goes on."""
    sweep = leave_sweep(folder, KEYS, ["+experiment=ratio", "model.pattern=A,GGGA,G"], "ratio")
    for pattern, recall in RECALL.items():
        for task in ("mqar", "copy"):
            for seed in (0, 1):
                keys = dict(zip(KEYS, (pattern, task, seed), strict=True))
                right = recall - 0.01 * seed - 0.1 * (task == "copy")
                scores = [*task_scores({32: 1.0, 64: right, 256: right / 2}), ENDS, *SEEN]
                fails = (pattern, task, seed) == ("A", "copy", 1)
                run = leave_point(
                    sweep, {**keys, "findings": CLAIMS}, scores=scores, speed=2000 - 1000 * recall,
                    error="the loss is not finite" if fails else None,
                )  # fmt: skip
                if (pattern, task, seed) == ("G", "copy", 1):
                    (run / "done").unlink()
    return sweep


def ask(sweep: Sweep, **asked: Any) -> Study:
    return study_of(sweep, ReportConfig(**asked))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study of three stacks; nobody writes into it."""
    folder = ratio(tmp_path_factory.mktemp("sweeps") / "ratio")
    return ask(read_sweep(folder, ["hours_to@3"]))


@pytest.fixture(scope="module")
def html(told: Study) -> str:
    """Its page."""
    return sweep_page([told])


def test_the_page_has_all_parts(html: str) -> None:
    check(html, SCRIPT)
    headings = re.findall(r"<h3>(.*?)</h3>", html)
    assert headings == ["Findings", "Map", "Best", "Curves", "Points", "Failed"]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert captions == [
        f"{what} ({task})"
        for task in ("copy", "mqar")
        for what in (
            "Throughput against right answers, length 64", "State against right answers, length 64",
            "Validation loss by tokens", "Validation loss by training FLOPs",
            "Validation loss by time", "Right answers, by length", "Recurrent states by place",
            "Loss with a limited context, nats, length 256",
        )
    ]  # fmt: skip
    assert html.count("<svg") == len(captions)
    assert "lmtrain train -m +experiment=ratio model.pattern=A,GGGA,G" in html
    assert html.count("✓ holds") == 1
    assert "answers@64 of model.pattern=A, data.task.name=copy: missing in 1 of 2 runs" in html
    assert "✗ does not hold" in html
    assert "12 runs in" in html
    assert "10 finished, 1 not finished, 1 failed. Only finished ones are in means" in html


def test_the_map_has_means_and_errors_of_finished_runs(told: Study, html: str) -> None:
    found = told.heat
    assert found is not None
    assert (found.rows, found.columns, found.measure) == (KEYS[0], KEYS[1], "answers@64")
    assert found.row_values == ["G", "GGGA", "A"]
    assert found.cells["GGGA", "mqar"].mean == pytest.approx(0.795)
    assert found.cells["GGGA", "mqar"].error == pytest.approx(0.005)
    assert found.cells["A", "copy"].count == found.cells["G", "copy"].count == 1
    assert found.best("mqar") == "A"
    assert 'style="--share:1.000">0.895<small>± 0.005</small>' in html
    assert 'style="--share:0.000">0.200</td>' in html


@pytest.mark.parametrize(
    ("asked", "shown", "across"),
    [
        ({"columns": "length"}, ("model.pattern", "length"), ["32", "64", "256"]),
        ({"rows": "data.task.name"}, ("data.task.name", "model.pattern"), ["G", "GGGA", "A"]),
    ],
)
def test_other_maps_can_be_asked_for(
    asked: dict[str, str], shown: tuple[str, str], across: list[str], told: Study
) -> None:
    found = ask(told.sweep, **asked).heat
    assert found is not None
    assert (found.rows, found.columns) == shown
    assert found.column_values == across
    if found.columns == "length":
        assert found.averaged == ["data.task.name"]
        assert "Means of 3 to 4 runs over task." in found.note
        assert "<small>" not in heat.html(found)


def test_the_best_is_compared_with_each_other_by_seed(told: Study, html: str) -> None:
    copying, mqar = told.verdicts
    assert mqar.condition == "mqar"
    assert mqar.best.name == "A"
    assert [(g.name, c.count) for g, c in mqar.rivals] == [("GGGA", 2), ("G", 2)]
    assert mqar.rivals[0][1].difference == pytest.approx(0.1)
    assert "So few runs cannot give a p below 0.5" in mqar.caution()
    assert [c.count for _, c in copying.rivals] == [0, 0]
    assert "model.pattern=A,data.task.name=mqar,run.seed=0&quot;" in html
    assert "findings" not in html.split("<h3>Best</h3>")[1].split("<h3>", maxsplit=1)[0]


def test_who_was_not_scored_is_named(tmp_path: Path) -> None:
    sweep = leave_sweep(tmp_path / "sweep", KEYS[:1], ["model.pattern=A,G,M"], "ratio")
    for pattern, right in {"A": 0.9, "G": 0.8, "M": None}.items():
        scores = [] if right is None else task_scores({64: right})
        leave_point(sweep, {"model.pattern": pattern}, scores=scores)
    study = ask(read_sweep(sweep), measure="answers@64")
    (verdict,) = study.verdicts
    assert [group.name for group, _ in verdict.rivals] == ["G"]
    assert verdict.caution().startswith("Not compared, for want of answers@64: M. ")
    assert any(line.endswith("for want of answers@64: M.") for line in study.summary())


def test_less_is_better_of_a_loss(told: Study) -> None:
    verdicts = ask(told.sweep, measure="context_loss@256:64").verdicts
    assert verdicts[0].headline().startswith("copy: lowest context_loss@256:64: ")
    cheap = ask(told.sweep, measure="hours_to@3").verdicts[0]
    assert cheap.best.name == "G"


def test_what_does_not_vary_is_refused(told: Study) -> None:
    known = "use model.pattern, data.task.name"
    with pytest.raises(ValueError, match=f"rows=optim.lr does not vary in this sweep: {known}"):
        ask(told.sweep, rows="optim.lr")
    with pytest.raises(ValueError, match=f"columns=run.seed does not vary in .*: {known}, length"):
        ask(told.sweep, columns="run.seed")
    with pytest.raises(ValueError, match=r"measure=recall is of no run in .*: use one of answers@"):
        ask(told.sweep, measure="recall")
    with pytest.raises(ValueError, match="columns=length: measure=loss is not taken at lengths"):
        ask(told.sweep, columns="length", measure="loss")
    with pytest.raises(ValueError, match=r"out=table.csv is the page.*: end it with .html"):
        report(ReportConfig(run="runs", out="table.csv"))
    with pytest.raises(ValueError, match="measure is of sweeps, and run=.* is none"):
        report(ReportConfig(run=str(told.sweep.points[0].run.folder), measure="loss"))
    with pytest.raises(ValueError, match="rows=a and columns=a are one: choose another"):
        report(ReportConfig(run="runs", rows="a", columns="a"))


def test_several_sweeps_make_one_page_with_files_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = leave_sweep(tmp_path / "rates", ["optim.lr"], ["optim.lr=0.1,0.2"])
    claim = {"says": "fast is better", "measure": "loss", "of": {"optim.lr": 0.2}, "than": 2.5}
    leave_point(rates, {"optim.lr": 0.1, "findings": [claim]})
    leave_point(rates, {"optim.lr": 0.2, "findings": [claim]}, losses=(4.0, 3.0, 2.75))
    leave_point(rates, {"optim.lr": 0.4}, losses=(9.0,), error="the loss is not finite")
    empty = leave_sweep(tmp_path / "empty", ["optim.lr"], ["+experiment=later"])
    folders = [str(rates), str(empty)]
    report(ReportConfig(run=folders, out=str(tmp_path / "all.html"), measure="loss"))
    printed = capsys.readouterr().out
    assert f"empty: {empty} holds no run yet." in printed
    assert "  holds          fast is better: loss of optim.lr=0.2 is 2.750 (1 run)" in printed
    assert "  failed         lr 0.4: the loss is not finite" in printed
    assert "  best           lowest loss: lr 0.1, 2.000 (one run)" in printed
    html = (tmp_path / "all.html").read_text()
    check(html, SCRIPT)
    assert re.findall(r"<h2>(.*?)</h2>", html) == ["rates", "empty"]
    assert set(re.findall(r'href="#(.*?)"', html)) >= set(re.findall(r'section id="(.*?)"', html))
    assert html.index("fast is better") < html.index("<h2>")
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["sweep"], row["state"], row["optim.lr"], row["loss"]) for row in rows] == [
        ("rates", "finished", "0.1", "2.0"),
        ("rates", "finished", "0.2", "2.75"),
        ("rates", "failed", "0.4", "9.0"),
    ]
    assert all((tmp_path / row["run"] / "config.yaml").is_file() for row in rows)
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "all").iterdir()}
    assert "rates_validation_loss_nats_by_lr.png" in pictures
    assert len(pictures) == 1 + html.count("<svg")
    assert all(png.startswith(b"\x89PNG") for png in pictures.values())


def test_sweeps_of_one_name_keep_their_pictures_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in two folders, of which one is said as seen from here, the other from the root."""
    for place in "ab":
        for rate in (0.1, 0.2):
            leave_point(leave_sweep(tmp_path / place / "rates", ["optim.lr"]), {"optim.lr": rate})
    monkeypatch.chdir(tmp_path)
    report(ReportConfig(run=["a/rates", str(tmp_path / "b" / "rates")], measure="loss"))
    drawn = sorted(path.name for path in (tmp_path / "report").glob("*by_lr.png"))
    assert drawn == [f"rates_{n}_validation_loss_nats_by_lr.png" for n in (1, 2)]


def test_runs_that_differ_in_much_have_the_names_of_their_folders(tmp_path: Path) -> None:
    for n in (1, 2):
        keys = ("optim.lr", "model.d_model", "model.n_layers", "optim.beta1", "optim.eps")
        point = leave_point(tmp_path / "x", dict.fromkeys(keys, 0.1 * n))
        point.rename(tmp_path / f"run{n}")
    (tmp_path / "x").rmdir()
    [verdict] = ask(read_sweep(tmp_path), measure="loss").verdicts
    assert {verdict.best.name, *(group.name for group, _ in verdict.rivals)} == {"run1", "run2"}
    assert next(ask(read_sweep(tmp_path)).summary()).startswith(f"{tmp_path.name}: 2 runs in")


def test_nothing_from_a_sweep_becomes_markup(tmp_path: Path) -> None:
    sweep = leave_sweep(tmp_path / "s", ["model.name", "data.source"], [f"x={HOSTILE}"], HOSTILE)
    for name in ("_a", HOSTILE.replace("/", "")):
        scores = [*task_scores({64: 0.5, 128: 0.25}), {**ENDS, "by_position": {HOSTILE: 1, "0": 2}}]
        keys = {"model.name": name, "data.source": name}
        leave_point(sweep, keys, scores=scores)
        leave_point(sweep, {**keys, "run.seed": 1}, error=HOSTILE)
    claim = {"says": HOSTILE, "measure": "loss", "of": {HOSTILE: HOSTILE}, "than": 1}
    leave_point(sweep, {"run.seed": 2, "findings": [claim, {"relation": "odd"}, 3]})
    html = sweep_page([ask(read_sweep(sweep))])
    check(html, SCRIPT)
    assert html.count("&lt;script&gt;alert(1)") > 4


def test_a_sweep_without_numbers_is_a_page(tmp_path: Path) -> None:
    sweep = leave_sweep(tmp_path / "s", ["model.pattern"], ["model.pattern=A,G"])
    check(sweep_page([ask(read_sweep(sweep))]), SCRIPT)
    leave_point(sweep, {"model.pattern": "A"}, losses=())
    leave_point(sweep, {"model.pattern": "G"}, losses=(float("nan"),), error="it is not finite")
    found = ask(read_sweep(sweep))
    assert (found.charts, found.heat) == ([], None)
    html = sweep_page([found])
    check(html, SCRIPT)
    assert "nan" not in html.split("<script>")[0].lower()


@pytest.mark.long
def test_a_browser_shows_it_without_complaint_and_sorts(html: str, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium")

    def dom(page: str) -> str:
        (tmp_path / "page.html").write_text(page)
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
                   f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
                   (tmp_path / "page.html").as_uri()]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert "CONSOLE" not in done.stderr
        return done.stdout

    assert '<th class="number"><button>answers@64</button></th>' in dom(html)
    # a click needs a script of its own, which the policy of the page would not let run
    click = '<script>document.querySelectorAll("th.number button")[1].click()</script>'
    opened = re.sub(r"<meta http-equiv[^>]*>", "", html)
    shown = dom(opened.replace("</body>", f"{click}</body>"))
    [body] = re.findall(r'<table class="numbers">.*?<tbody>(.*?)</tbody>', shown, re.DOTALL)
    column = [re.findall(r'data-value="(.*?)"', row)[1] for row in body.split("</tr>")[:-1]]
    assert [float(value) for value in column] == sorted(map(float, column))
    assert len(column) == 12
