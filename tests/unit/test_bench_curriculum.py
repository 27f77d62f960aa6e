"""The curriculum benchmark: its arithmetic, its verdicts, and a run on a tiny store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from data_stores import random_texts, write_store

from lmtrain.bench.config import BenchConfig, BenchKind
from lmtrain.bench.curriculum import (
    CONCATENATED,
    DECOMPOSED,
    EQUAL,
    Measurement,
    Sample,
    attention_flops,
    bench_curriculum,
    measured,
    verdicts,
)
from lmtrain.models.accounting import ModelCost
from lmtrain.models.config import AttentionConfig, ModelConfig

if TYPE_CHECKING:
    from pathlib import Path


def cost() -> ModelCost:
    heads = AttentionConfig(heads=2, kv_heads=1, head_dim=8)
    return ModelCost.of(
        ModelConfig(pattern="A", n_layers=3, d_model=16, vocab_size=64, attention=heads)
    )


def measurement(name: str, length: int, seconds: float, *, context: float = 1) -> Measurement:
    return Measurement(
        name=name,
        length=length,
        shares={length: 1.0},
        context=context,
        attention_flops=1,
        flops=2,
        seconds=seconds,
        tokens_per_second=1 / seconds,
    )


def test_attention_flops_count_the_pairs_of_each_document() -> None:
    pairs = 10 * 11 // 2 + 4 * 5 // 2
    # forward and backward is three times forward; queries with keys, and weights with values
    assert attention_flops(cost(), [10, 4]) == 3 * 3 * (2 * 2 * 2 * 8) * pairs / 14


def test_a_curriculum_is_the_mean_of_its_steps_by_their_shares() -> None:
    samples = [Sample(0.75, 3.5, (8,) * 4), Sample(0.25, 15.5, (32,))]
    seconds = {(8,) * 4: 1.0, (32,): 3.0, (16, 16): 9.0}
    found = measured(DECOMPOSED, 32, samples, seconds, cost())
    assert found.seconds == 1.5
    assert found.tokens_per_second == 32 / 1.5
    assert found.context == 6.5
    assert found.shares == {8: 0.75, 32: 0.25}
    expected = 0.75 * attention_flops(cost(), [8]) + 0.25 * attention_flops(cost(), [32])
    assert found.attention_flops == pytest.approx(expected)
    assert found.flops - found.attention_flops == pytest.approx(3 * cost().total.flops)


def test_verdicts_compare_four_times_the_length() -> None:
    found = [
        measurement(CONCATENATED, 64, 1.0, context=32),
        measurement(DECOMPOSED, 256, 1.05, context=40),
        measurement(EQUAL, 256, 1.2),
        measurement(CONCATENATED, 256, 2.0),
        measurement(DECOMPOSED, 512, 1.0),
    ]
    first, second = verdicts(found)
    assert first == (
        "decomposed at 256 costs about what concatenated at 64 does: holds, 1.05 × the time and "
        "1.25 × the context"
    )
    assert "does not hold, 1.20 × the time" in second
    assert "no length is 4 times another one" in verdicts(found[1:])[0]


def test_results_are_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "store", tmp_path / "curriculum.json"
    write_store(folder, random_texts(80))
    config = BenchConfig(
        what=BenchKind.curriculum,
        lengths=[64, 256],
        min_length=16,
        data_source=str(folder),
        warm_up=0,
        repeats=1,
        out=str(out),
    )
    found, notes = bench_curriculum(config)
    assert [(m.name, m.length) for m in found] == [
        (name, length) for length in (64, 256) for name in (DECOMPOSED, EQUAL, CONCATENATED)
    ]
    for m in found:
        assert sum(m.shares.values()) == pytest.approx(1)
        assert m.context == pytest.approx(sum(s * (n - 1) / 2 for n, s in m.shares.items()))
        assert m.tokens_per_second == pytest.approx(256 / m.seconds)
    assert len(set(found[1].shares.values())) == 1
    assert found[2].shares == {64: 1.0}
    record = json.loads(out.read_text())
    assert record["notes"] == notes
    assert record["config"]["pattern"] == "A"
    assert {"name", "length", "shares", "context", "attention_flops", "flops", "seconds"} <= set(
        record["results"][0]
    )
    told = capsys.readouterr().out
    assert "decomposed at 256 costs about what concatenated at 64 does" in told


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"lengths": []}, r"lengths=\[\]"),
        ({"lengths": [96]}, "lengths=96"),
        ({"lengths": [32]}, "min_length=64"),
        ({"tokens_per_step": 3000}, "tokens_per_step=3000"),
        ({"size": "huge"}, "size=huge"),
        ({"pattern": "X"}, "model.pattern"),
        ({"data_source": "/no/where"}, "data.source=/no/where"),
    ],
)
def test_a_wrong_value_is_refused_by_name(keys: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=rf"^{named}"):
        bench_curriculum(BenchConfig(what=BenchKind.curriculum, **keys))  # type: ignore[arg-type]


def test_more_tokens_a_step_than_the_store_has_are_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "store", random_texts(5))
    source = str(tmp_path / "store")
    with pytest.raises(ValueError, match=r"^tokens_per_step=1048576 is more than any length"):
        bench_curriculum(
            BenchConfig(what=BenchKind.curriculum, tokens_per_step=1 << 20, data_source=source)
        )
