"""The view of a run on a terminal."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console
from test_report import STEP, VALIDATION

from lmtrain.train.observers import live
from lmtrain.train.observers.live import Live, draw, sparkline
from lmtrain.train.observers.terminal import line
from lmtrain.train.report import FaultReport, StartReport

if TYPE_CHECKING:
    import pytest


class Minute:
    """A run always takes another minute."""

    def remaining(self, _: int) -> timedelta:
        return timedelta(minutes=1)


def view(console: Console, steps: int = 30) -> Live:
    return Live(console, Minute(), steps=steps, line=line)


def terminal() -> tuple[Console, StringIO]:
    out = StringIO()
    return Console(file=out, force_terminal=True, width=100, height=30), out


def test_it_shows_what_matters() -> None:
    console, out = terminal()
    report = replace(STEP, mfu=0.415, sp_bytes=3 * 2**20, memory=5 * 2**30)
    console.print(draw(report, [4.0, 3.0, 2.5], steps=30, left=timedelta(seconds=75)))
    said = out.getvalue()
    for part in (
        "step 10 of 30, 33%, 0:01:15 left", "2.500", "█", "3.167 of late", "length 64", "5,000",
        "MFU 41.5%", "data wait 0.000 s", "5 GiB", "3 MiB sent a step",
    ):  # fmt: skip
        assert part in said, part


def test_losses_of_another_stage_are_no_part_of_the_mean() -> None:
    console, out = terminal()
    shown = view(console, steps=3)
    for step, loss, stage in ((1, 0.5, "layers"), (2, 3.0, "logits"), (3, 2.0, "logits")):
        shown(replace(STEP, step=step, loss=loss, stage=stage))
    shown.close()
    assert "0.500 (layers)" in out.getvalue()
    assert "2.000 (logits)" in out.getvalue()
    assert "2.500 of late" in out.getvalue()


def test_it_is_drawn_four_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(live, "perf_counter", lambda: now)
    console, out = terminal()
    shown = view(console)
    for step in range(1, 31):
        now += 0.0625
        shown(replace(STEP, step=step))
    shown.close()
    drawn = [step for step in range(1, 31) if f"step {step} of 30" in out.getvalue()]
    assert drawn == [1, 5, 9, 13, 17, 21, 25, 29, 30]  # the last step always


def test_what_is_said_stays_above_it_and_is_not_markup() -> None:
    console, out = terminal()
    shown = view(console)
    shown(STEP)
    shown("a sample with [bold]brackets[/bold]")
    shown(VALIDATION)
    shown(FaultReport(step=11, fault="the loss is nan", back=8, faults=1))
    shown.close()
    said = out.getvalue()
    assert "a sample with [bold]brackets[/bold]" in said
    assert "validation loss 2.000" in said
    assert "step 11  left out: the loss is nan, back to step 8" in said
    assert said.index("step 10 of 30") < said.index("a sample") < said.rindex("step 10 of 30")
    assert "\x1b[?25h" in said  # the cursor is back


def test_what_is_said_of_a_finished_run_stands_below() -> None:
    console, out = terminal()
    shown = view(console, steps=10)
    shown(STEP)
    shown("finished")
    shown.close()
    assert out.getvalue().rstrip().endswith("finished")
    assert out.getvalue().rindex("step 10 of 10") < out.getvalue().index("finished")


def test_an_error_finds_the_terminal_as_it_was() -> None:
    console, out = terminal()
    shown = view(console)
    shown(STEP)
    shown.close()
    console.print("Traceback", highlight=False)
    assert out.getvalue().rstrip().endswith("Traceback")
    assert not console._live_stack


def test_the_sparkline_reaches_from_the_least_to_the_largest() -> None:
    assert sparkline([1.0, 2.0, 8.0, 4.5]) == "▁▂█▅"
    assert sparkline([3.0, 3.0]) == "▁▁"
    assert sparkline([1.0, float("nan"), 2.0]) == "▁ █"
    assert sparkline([float("nan")]) == " "


def test_a_sample_cannot_command_the_terminal() -> None:
    assert line("one\ttwo\n\x1b]0;title\x07\x7f") == "one\ttwo\n␛]0;title␇␡"


def test_a_start_is_a_line() -> None:
    report = StartReport(
        step=0, started="2026-01-01T00:00:00+00:00", parameters=1_234_567, processes=8,
        device="NVIDIA H100", version="1", torch="2",
    )  # fmt: skip
    assert line(report) == "1,234,567 parameters, 8 processes, NVIDIA H100, torch 2"
