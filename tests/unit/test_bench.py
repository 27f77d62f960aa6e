"""The step benchmark: contenders of one size, and a run of it."""

from __future__ import annotations

import json
from math import log
from typing import TYPE_CHECKING

import pytest
import torch

from lmtrain.bench.config import BenchConfig, BenchKind
from lmtrain.bench.contenders import builders
from lmtrain.bench.step import bench
from lmtrain.ops.config import Backend

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


@pytest.mark.slow
def test_backends_compute_one_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "backends.json"
    keys = {"lengths": [16], "repeats": 1, "warm_up": 0, "threads": 1, "out": str(out)}
    chosen = [Backend.torch, Backend.reference]
    config = BenchConfig(what=BenchKind.backends, pattern="MGG", backends=chosen, **keys)  # type: ignore[arg-type]
    measurements = bench(config)
    assert [m.contender for m in measurements] == ["torch", "reference"]
    assert measurements[0].parameters == measurements[1].parameters
    assert json.loads(out.read_text())["notes"] == []
    assert "reference" in capsys.readouterr().out


@pytest.mark.long
def test_a_contender_that_fails_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmtrain.bench.contenders.backend_problems", lambda *_: [])
    out = tmp_path / "backends.json"
    keys = {"lengths": [16], "repeats": 1, "warm_up": 0, "threads": 1, "out": str(out)}
    chosen = [Backend.torch, Backend.fla]
    config = BenchConfig(what=BenchKind.backends, pattern="G", backends=chosen, **keys)  # type: ignore[arg-type]
    assert [m.contender for m in bench(config)] == ["torch"]
    assert "not measured, 16 tokens: fla: ValueError: ops.backend=fla" in capsys.readouterr().out
    assert json.loads(out.read_text())["notes"][0].startswith("16 tokens: fla: ValueError")
    config.backends = chosen[::-1]
    with pytest.raises(RuntimeError, match="16 tokens: fla: ValueError"):
        bench(config)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (BenchConfig(what=BenchKind.backends, size="7b"), "size=7b"),
        (BenchConfig(what=BenchKind.backends, backends=[Backend.fla]), "ops.backend=fla"),
        (BenchConfig(compile=True, size="7b"), "size=7b"),
        (BenchConfig(compile=True, what=BenchKind.rows), "compile=true"),
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
