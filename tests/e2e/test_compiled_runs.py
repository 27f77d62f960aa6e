"""A whole run with compiled blocks: the same losses, and one set of graphs for every length."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch

from lmtrain.compilation import compile_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runs import Run

pytestmark = [
    pytest.mark.slow,
    # torch hides this warning of its own while it traces, which does not help where it is an error
    pytest.mark.filterwarnings(r"ignore:The \.grad attribute of a Tensor that is not a leaf"),
]
QUICK = "aot_eager"
"""Traces and differentiates as the default does, and generates no code."""


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def check(run: Run, whole: Run, told: str, tolerance: float = 1e-5) -> None:
    """Losses of training and validation; every length was met, and one step compiled."""
    assert run.losses == pytest.approx(whole.losses, rel=tolerance)
    found, expected = ([r["val_loss"] for r in x.metrics if "val_loss" in r] for x in (run, whole))
    assert found == pytest.approx(expected, rel=tolerance)
    assert {report["length"] for report in run.metrics if "length" in report} == {16, 32, 64}
    assert told.count("graphs; later steps should need no others") == 1
    assert "more graphs" not in told


def test_a_curriculum_needs_one_set_of_graphs(
    whole: Run, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With validation between the steps, and texts written afterwards."""
    compiled = partial(compile_blocks, backend=QUICK)
    monkeypatch.setattr("lmtrain.train.engines.local.compile_blocks", compiled)
    monkeypatch.setattr("lmtrain.settings.engine.which", lambda _: "g++")  # it generates no code
    assert run.train("engine.compile=true", "engine.remat=full") == 0
    check(run, whole, capsys.readouterr().out)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself, in its compiler
@pytest.mark.parametrize(
    ("more", "tolerance"), [("train.accumulate=2", 1e-5), ("engine.precision=bf16", 1e-2)]
)
def test_generated_code_gives_the_same(
    more: str, tolerance: float, whole: Run, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.train("engine.compile=true", more) == 0
    check(run, whole, capsys.readouterr().out, tolerance)
