"""The step benchmark: contenders of one size, and a run of it."""

from __future__ import annotations

import json
from math import log
from typing import TYPE_CHECKING

import pytest
import torch

from lmtrain.bench.config import BenchConfig
from lmtrain.bench.contenders import builders
from lmtrain.bench.step import bench

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("transformers")


def test_contenders_have_one_size_and_learn_the_same_targets() -> None:
    tokens = torch.randint(4096, (2, 17))
    contenders = [build() for build in builders(BenchConfig()).values()]
    ours = contenders[0].parameters
    for contender in contenders:
        assert abs(contender.parameters / ours - 1) < 0.005
        loss = contender.loss(tokens)
        assert abs(loss.item() - log(4096)) < 0.2  # untrained
        loss.backward()
        assert all(p.grad is not None for p in contender.model.parameters())


@pytest.mark.slow
def test_a_measurement_is_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "step.json"
    measurements = bench(BenchConfig(lengths=[32], repeats=2, threads=1, out=str(out)))
    assert [m.length for m in measurements] == [32] * 3
    assert all(len(m.seconds) == 2 and m.memory > 0 for m in measurements)
    record = json.loads(out.read_text())
    assert [result["tokens"] for result in record["results"]] == [32] * 3
    assert {"cpu", "cores", "torch", "transformers"} <= record["machine"].keys()
    assert "Qwen3-Next" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (BenchConfig(lengths=[]), "lengths"),
        (BenchConfig(lengths=[3, 4]), "lengths"),
        (BenchConfig(repeats=0), "repeats"),
        (BenchConfig(threads=0), "threads"),
        (BenchConfig(out="/no/where/step.json"), "out"),
        (BenchConfig(pattern="GX"), "model.pattern"),
    ],
)
def test_a_wrong_value_is_refused_by_name(config: BenchConfig, named: str) -> None:
    with pytest.raises(ValueError, match=rf"^{named}\b"):
        bench(config)
