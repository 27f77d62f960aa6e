"""The data benchmark: contenders that do the same work, results, and what it cannot measure."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pytest
from data_stores import random_texts, write_store
from hypothesis import given
from hypothesis import strategies as st

from lmtrain.bench import preparing
from lmtrain.bench.config import BenchConfig, BenchKind, DataPart
from lmtrain.bench.data import bench_data, table
from lmtrain.bench.loading import Pieces, plain_reading, reading
from lmtrain.bench.planning import MEAN, by_loop, check_decomposition, synthetic
from lmtrain.bench.turns import Process, Result, Turn, compare, take_turns
from lmtrain.data.curriculum_config import CurriculumConfig, CurriculumName
from lmtrain.data.plan import Plan
from lmtrain.data.store import Documents
from lmtrain.data.tokenize import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def config(**keys: object) -> BenchConfig:
    """A small benchmark of the data."""
    small = {
        "what": BenchKind.data,
        "characters": 20_000,
        "tokenizer": "bytes",
        "documents": 500,
        "steps": 50,
        "tokens": 2048,
        "min_length": 64,
        "max_length": 256,
        "tokens_per_step": 512,
        "warm_up": 0,
        "repeats": 2,
    }
    return BenchConfig(**{**small, **keys})  # type: ignore[arg-type]


def result(**keys: object) -> Result:
    """A result whose median turn takes two seconds."""
    usual = {"what": "w", "contender": "c", "unit": "u", "seconds": [1.0, 3.0, 2.0], "amount": 10}
    return Result(**{**usual, **keys})  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 300), max_size=20))
def test_the_plain_loop_is_decomposition(sizes: list[int]) -> None:
    lengths = np.array(sizes, np.int64)
    documents = Documents(np.cumsum(lengths) - lengths, lengths)
    check_decomposition(documents, [4, 8, 16, 32])
    pieces = by_loop(documents, [4, 8, 16, 32])
    used = sum(length * len(starts) for length, starts in pieces.items())
    assert used == sum((n - 1) // 4 * 4 for n in sizes)


def test_a_disagreement_of_the_decompositions_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "lmtrain.bench.planning.by_loop", lambda _, lengths: {n: [] for n in lengths}
    )
    with pytest.raises(RuntimeError, match="disagree on length 4"):
        check_decomposition(synthetic(10), [4, 8])


def test_made_up_documents_have_the_mean_length_and_never_change() -> None:
    documents = synthetic(100_000)
    assert documents.lengths.min() >= 2
    assert documents.lengths.mean() == pytest.approx(MEAN, rel=0.03)
    assert (synthetic(100_000).lengths == documents.lengths).all()
    assert (documents.starts[1:] == np.cumsum(documents.lengths)[:-1]).all()


def test_values_are_of_the_median_turn_and_of_one_core() -> None:
    assert result().value == 5
    assert result(cores=2).value == 2.5
    assert result(amount=0).value == 2
    assert result().met is None
    assert [result(target=t).met for t in (5, 5.1)] == [True, False]
    assert [result(amount=0, target=t).met for t in (2, 1.9)] == [True, False]


def test_speeds_are_compared_round_by_round() -> None:
    slowing, other = result(seconds=[1.0, 2.0, 4.0]), result(seconds=[2.0, 4.0, 4.0])
    assert slowing.speed_over(other) == 2
    assert slowing.speed_over(replace(other, amount=5)) == 4


def test_contenders_take_turns() -> None:
    seen: list[str] = []

    def contender(name: str) -> Callable[[], Turn]:
        return lambda: (seen.append(name), Turn(len(seen), 7))[1]

    turns = take_turns([contender("a"), contender("b")], config(warm_up=1, repeats=3))
    assert "".join(seen) == "ab" + "ab" + "ba" + "ab"
    assert [[turn.seconds for turn in mine] for mine in turns] == [[3, 6, 7], [4, 5, 8]]
    found = compare("w", {"a": contender("a"), "b": contender("b")}, config(), unit="u", target=1)
    assert [r.contender for r in found] == ["a", "b"]
    assert [r.target for r in found] == [1, None]


def test_a_dead_process_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts").mkdir()
    with (
        Process({}, preparing.bare, tmp_path, 1) as contender,
        pytest.raises(RuntimeError, match="died"),
    ):
        contender()
    assert "tokenizer.json is missing" in capfd.readouterr().err


def test_contenders_of_preparation_find_the_same_tokens(tmp_path: Path) -> None:
    texts = random_texts(30)
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    preparing.write_texts(tmp_path, config(input=str(tmp_path / "texts.jsonl")), parts=4)
    assert len(list((tmp_path / "texts").iterdir())) == 4
    mine, bare = preparing.ours(tmp_path, 1), preparing.bare(tmp_path, 1)
    tokens = mine().amount
    assert mine().amount == tokens == bare().amount  # also the second time
    assert tokens == pytest.approx(sum(map(len, texts)), rel=0.5)


def test_texts_are_those_of_the_standard_library_without_an_input(tmp_path: Path) -> None:
    preparing.write_texts(tmp_path, config(tokenizer="bpe:300"), parts=2)
    lines = [p.read_text().splitlines() for p in sorted((tmp_path / "texts").iterdir())]
    assert json.loads(lines[0][0])["text"]
    assert load_tokenizer(tmp_path / "tokenizer.json").get_vocab_size() == 300


def test_the_target_of_preparation_is_a_part_of_the_bare_speed() -> None:
    mine, other = preparing.with_target([result(), result(seconds=[1.0] * 3)])
    assert mine.target == pytest.approx(9)
    assert other.target is None
    with pytest.raises(RuntimeError, match="same work"):
        preparing.with_target([result(), result(amount=11)])


def test_the_plain_loader_reads_the_same_pieces(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", random_texts(60))
    fixed = CurriculumConfig(name=CurriculumName.fixed, max_length=128)
    plan = Plan.build(store, fixed, seed=0, tokens_per_step=512)
    pieces = Pieces(store, plan)
    assert len(pieces) == len(plan.buckets[0])
    for number in islice(range(len(pieces)), 5):
        tokens, targets = pieces[number]
        expected = store.read(plan.buckets[0].starts[[number]], 129)[0]
        assert tokens.tolist() == expected[:-1].tolist()
        assert targets.tolist() == expected[1:].tolist()
    steps = plan.steps_per_pass + 3  # into the next epoch
    assert reading(store, plan, steps)().amount == 512 * steps
    assert plain_reading(store, plan, steps)().amount == 512 * steps


def test_results_are_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "store", tmp_path / "data.json"
    write_store(folder, random_texts(60))
    parts = [DataPart.plan, DataPart.load]
    small = config(parts=parts, data_source=str(folder), max_length=4096, out=str(out))
    results, notes = bench_data(small)
    record = json.loads(out.read_text())
    assert record.keys() == {"command", "machine", "config", "results", "notes"}
    assert {"cpu", "cores", "numpy", "torch", "tokenizers"} <= record["machine"].keys()
    assert record["notes"] == notes
    assert record["config"]["documents"] == 500
    assert [r["value"] for r in record["results"]] == [r.value for r in results]
    assert all(len(r["seconds"]) == 2 for r in record["results"])
    told = capsys.readouterr().out
    assert "decomposition" in told
    assert "DataLoader" in told
    assert "loader, decompose at 4,096 is not measured" in told  # no document is so long
    assert "OLMo-core's loader of variable lengths is not measured" in told


@pytest.mark.slow
def test_preparation_is_measured_in_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preparing, "usable_cores", lambda: 1)
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"text": text}) for text in random_texts(30)))
    small = config(parts=[DataPart.prepare], input=str(texts), repeats=1)
    results, notes = bench_data(small)
    assert [r.contender for r in results][:2] == ["lmtrain", "tokenizers"]
    assert results[0].met is not None
    assert "preparation on all cores is not measured: there is one" in notes
    assert "lmtrain" in capsys.readouterr().out


def test_a_table_compares_with_ours() -> None:
    rows = table([result(contender="ours", target=6), result(contender="b", seconds=[1.0] * 3)])
    cells = [list(column.cells) for column in rows.columns]
    assert cells[3] == ["", "0.50 ×"]
    assert cells[4] == ["6e-06 M/s missed", ""]
    times = table([result(amount=0, target=0.5), result(what="v", amount=0, seconds=[0.25] * 3)])
    assert list(times.columns[2].cells) == ["2 s", "250 ms"]
    assert list(times.columns[4].cells) == ["500 ms missed", ""]


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"documents": 0}, "documents=0"),
        ({"steps": 0}, "steps=0"),
        ({"tokens": 0}, "tokens=0"),
        ({"characters": -1}, "characters=-1"),
        ({"min_length": 48}, "min_length=48"),
        ({"max_length": 0}, "max_length=0"),
        ({"min_length": 512}, "min_length=512"),
        ({"tokens_per_step": -4}, "tokens_per_step=-4"),
        ({"parts": []}, r"parts=\[\]"),
        ({"input": "/no/where"}, "input=/no/where"),
        ({"data_source": "/no/where", "parts": [DataPart.load]}, "data.source=/no/where"),
    ],
)
def test_a_wrong_value_is_refused_by_name(keys: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=rf"^{named}"):
        bench_data(config(**keys))
