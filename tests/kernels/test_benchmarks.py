"""The benchmarks of kernels: what they check, count and write; no time is looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import contenders, launches, parity, work
from benchmarks.__main__ import main
from benchmarks.case import SMALL
from benchmarks.cases import CASES, SMOKE
from benchmarks.contenders import OURS
from benchmarks.launches import Asked
from benchmarks.pointwise import NormThenGate, ShortConv
from benchmarks.recurrences import GatedDelta
from benchmarks.report import remarks, table
from benchmarks.timing import Ceilings
from benchmarks.tune import main as tune
from lmtrain_kernels import tuned

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

CPU = torch.device("cpu")
HERE = ["--device", "cpu", "--smoke", "--repeats", "1"]

interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="runs in the interpreter")


def run(out: Path, *words: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code, and every line that was written."""
    code = main([*HERE, "--out", str(out), *words])
    return code, [json.loads(line) for line in out.read_text().splitlines()]


def ours(lines: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["what"] == what and line["contender"] == OURS]


@interpreted
@pytest.mark.slow
@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(each, marks=[pytest.mark.long] if each == "gated_delta" else [])
        for each in work.operations_of()
    ],
)
def test_every_operation_is_compared_and_timed(
    operation: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--operations", operation, "--contenders", "torch", "fla"]
    code, (record, *lines) = run(tmp_path / "kernels.jsonl", *words)
    assert code == 0
    assert {"command", "machine"} < record.keys()
    assert [line["passed"] for line in ours(lines, "parity")] == [True]
    assert [line["pass"] for line in ours(lines, "time")] == ["forward", "training"]
    timed = [line for line in lines if line["what"] == "time"]
    assert {line["contender"] for line in timed} == {OURS, "torch"}
    assert [len(line["stages"]) for line in timed] == [1, 1, 2, 2]
    told = capsys.readouterr().out
    assert "ours is" in told
    if operation not in {"gate_then_norm", "discretize"}:
        assert "fla is not here: No module named 'fla'" in told


@interpreted
@pytest.mark.slow
def test_processes_of_their_own_find_the_same(tmp_path: Path) -> None:
    words = ["--apart", "--operations", "norm_then_gate", "--contenders", OURS, "--seconds", "600"]
    code, lines = run(tmp_path / "kernels.jsonl", *words)
    assert code == 0
    assert [line["passed"] for line in ours(lines, "parity")] == [True]
    assert [line["pass"] for line in ours(lines, "time")] == ["forward", "training"]


def wrong(case: NormThenGate, layout: Any) -> Callable[..., Tensor]:
    return lambda *inputs: 1.05 * case.expected(inputs, layout)


def broken(_: NormThenGate, __: Any) -> Callable[..., Tensor]:
    raise RuntimeError("out of shared memory")


@pytest.mark.parametrize(
    ("contender", "told"), [(wrong, "is not timed"), (broken, "out of shared")]
)
def test_what_is_wrong_or_fails_is_told_and_not_timed(
    contender: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = contenders.norm_of(contenders.Backend.torch)
    monkeypatch.setitem(contenders._CONTENDERS, NormThenGate, {OURS: contender, "torch": theirs})
    code, lines = run(tmp_path / "kernels.jsonl", "--operations", "norm_then_gate")
    assert code == 1
    assert {line["contender"] for line in lines if line["what"] == "time"} == {"torch"}
    [remark] = remarks(lines)
    assert remark.startswith("lmtrain ")
    assert told in remark


def test_parity_sees_a_wrong_gradient_and_nan() -> None:
    assert parity.Parity((1e-2, 2e-2, 0.0)).passed
    assert not parity.Parity((1e-2, 4e-2)).passed
    assert not parity.Parity((3e-2, 1e-2)).passed
    assert not parity.Parity((1e-2, float("nan"))).passed


def test_documents_are_those_of_the_goals() -> None:
    rows = {case.tokens for case in CASES}
    assert rows == {8192, 32_768}
    assert {case.documents for case in CASES} >= {"1x8192", "8x1024", "256x128", "packed 32768"}
    assert all(total % 16 == 0 for total in (*rows, sum(SMALL)))


def test_a_floor_is_the_slower_of_bytes_and_products() -> None:
    conv = ShortConv(lengths=(100,), channels=32)
    limits = Ceilings(bytes_per_second=1e6, flops_per_second=1e6)
    assert work.floor(conv, "forward", limits) == 2 * 2 * 3200 / 1e6
    assert work.floor(conv, "training", limits) == 5 * 2 * 3200 / 1e6
    delta = GatedDelta(lengths=(100,), groups=1, heads=2, width=32)
    products = 100 * (2 * 2 * 64 * 32 + 2 * (2 * 64 * 3 * 32 + 3 * 2 * 32 * 32))
    assert work.floor(delta, "forward", limits) == products / 1e6
    assert work.floor(delta, "forward", Ceilings(1e3, 1e9)) == delta.forward().bytes / 1e3


def test_a_table_compares_with_ours_at_the_same_case() -> None:
    line = {"what": "time", "operation": "o", "sizes": "s", "documents": "1x8", "pass": "training",
            "stages": [1e-3, 1e-3], "host": 1e-4, "floor": 1e-3}  # fmt: skip
    lines = [
        {**line, "contender": OURS, "seconds": 2e-3},
        {**line, "contender": "b", "seconds": 3e-3},
    ]
    cells = [list(column.cells) for column in table(lines).columns]
    assert cells[4] == ["2.000", "3.000"]
    assert cells[6] == ["", "1.50 ×"]
    assert cells[7] == ["50%", "33%"]


ROWS = [
    {"kernel": "a", "launch": {"BLOCK": 64, "num_warps": 4, "num_stages": 2}},
    {"kernel": "b", "key": {"bits": 16}, "launch": {"TILE": 1, "num_warps": 4}},
    {"kernel": "b", "launch": {"TILE": 32, "num_warps": 4}, "candidates": {"TILE": [16, 32, 64]}},
]


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A small table of launches, also in a file."""
    monkeypatch.setattr(tuned, "_rows", lambda: ROWS)
    path = tmp_path / "tuned.json"
    path.write_text(json.dumps(ROWS))
    return path


@pytest.mark.usefixtures("rows")
def test_candidates_are_neighbours_or_what_a_row_lists() -> None:
    found = launches.candidates(Asked("a", ()), 90, most=99)
    assert len(found) == 2 + 3 * 4 - 1
    assert {"BLOCK": 128, "num_warps": 4, "num_stages": 2} in found
    assert ROWS[0]["launch"] not in found
    found = launches.candidates(Asked("b", (("bits", 16),)), 90, most=99)
    assert found == [{"TILE": 2, "num_warps": 4}, *({"TILE": 1, "num_warps": w} for w in (2, 8))]
    assert [x["TILE"] for x in launches.candidates(Asked("b", ()), 90, most=99)] == [16, 64]
    with pytest.raises(ValueError, match="no row for c on sm_90"):
        launches.candidates(Asked("c", ()), 90, most=1)


@pytest.mark.usefixtures("rows")
def test_launches_are_replaced_for_one_kernel_and_given_back() -> None:
    with launches.replaced() as answers:
        assert tuned.tuned("a", CPU)["BLOCK"] == 64
        [asked] = answers.asked
        with answers.instead(asked, {"BLOCK": 16}):
            assert tuned.tuned("a", CPU) == {"BLOCK": 16}
            assert tuned.tuned("b", CPU)["TILE"] == 32
        assert tuned.tuned("a", CPU)["BLOCK"] == 64


def test_tuned_rows_come_before_those_of_any_card(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches.write(rows, 90, {Asked("b", (("bits", 16),)): {"TILE": 7}})
    launches.write(rows, 90, {Asked("b", (("bits", 16),)): {"TILE": 8}})
    written = json.loads(rows.read_text())
    assert [row["kernel"] for row in written] == ["a", "b", "b", "b"]
    monkeypatch.setattr(tuned, "_rows", lambda: written)
    assert launches.row(Asked("b", (("bits", 16),)), 90)["launch"] == {"TILE": 8}
    assert launches.row(Asked("b", (("bits", 16),)), 80)["launch"]["TILE"] == 1


@interpreted
@pytest.mark.slow
def test_tuning_tries_what_runs_and_keeps_what_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.tune.LEAST_GAIN", -99.0)  # any other wins
    monkeypatch.setattr("benchmarks.tune.Tuning.won", lambda _: True)
    out = tmp_path / "tuned.json"
    words = ["--operations", "norm_then_gate", "--most", "2", "--seconds", "600"]
    assert tune(["--device", "cpu", "--smoke", *words, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "norm_then_gate: 4 of 4 candidates run" in told
    mine = [row for row in json.loads(out.read_text()) if row.get("cards") == [90]]
    assert {row["kernel"] for row in mine} >= {"gated_norm_forward", "gated_norm_backward"}


def test_a_wrong_word_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--operations", "attention"])
    assert "--operations attention: choose of gated_delta ssd" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tune(["--device", "cpu"])
    assert "add --smoke" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tune(["--smoke", "--out", "no/where.json"])
    assert "--out no/where.json: there is no such folder" in capsys.readouterr().err


def test_what_calls_cost_the_host(tmp_path: Path) -> None:
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.host", "--calls", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    told = [line.split("\u2502")[1:-1] for line in done.stdout.splitlines() if " us " in line]
    assert [line[0].strip() for line in told] == [case.operation for case in SMOKE]
    assert all(int(cell.split()[0]) > 0 for line in told for cell in line[1:])
