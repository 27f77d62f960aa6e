"""Processes and kills change nothing in a store."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from lmtrain.data import tally, units, workers
from lmtrain.data.prepare import prepare
from lmtrain.data.prepare_config import PrepareConfig, TextSplit
from lmtrain.data.store import Selection, Store

if TYPE_CHECKING:
    from pathlib import Path

UNIT_BYTES = 2000


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "UNIT_BYTES", UNIT_BYTES)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """One large file of lines: 200 documents, a blank one and a malformed line in every ten."""
    path = tmp_path / "a.jsonl"
    lines: list[str] = []
    for i in range(200):
        lines.append(json.dumps({"text": f"document {i}: " + "wörd " * (i % 17)}))
        if i % 10 == 5:
            lines += ["{broken", "", '{"text": " "}']
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def config(source: Path, out: Path, **options: Any) -> PrepareConfig:
    return PrepareConfig(
        input=str(source), out=str(out), **{"tokenizer": "bpe:300", "workers": 1, **options}
    )


def contents(store: Path) -> dict[str, object]:
    """Every file of a store, without the command that made it."""
    files: dict[str, object] = {path.name: path.read_bytes() for path in store.iterdir()}
    manifest = json.loads((store / "manifest.json").read_text())
    del manifest["created_by"]
    return {**files, "manifest.json": manifest}


def test_any_number_of_processes_writes_the_same(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written: dict[int, tuple[dict[str, object], list[str]]] = {}
    for count in (1, 2, 7):
        out = prepare(config(corpus, tmp_path / f"with-{count}", workers=count))
        printed = capsys.readouterr().out.splitlines()
        written[count] = contents(out), printed[1:]
    assert written[2] == written[7] == written[1]
    store = Store(tmp_path / "with-7", Selection(val_fraction=0))
    assert (store.manifest.counts.documents, store.manifest.counts.empty) == (200, 20)
    numbers = [int(re.findall(r"a\.jsonl:(\d+): ", line)[0]) for line in written[7][1][:10]]
    assert numbers == [7 + 13 * i for i in range(10)]
    assert written[7][1][10:] == ["... and 10 more"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        "with-1",
        "with-2",
        "with-7",
    ]


def test_a_killed_preparation_goes_on_where_it_was(corpus: Path, tmp_path: Path) -> None:
    whole = contents(prepare(config(corpus, tmp_path / "whole")))
    out, folder = tmp_path / "store", tmp_path / ".store.units"
    slow = f"""
import time
from lmtrain.data import builder, prepare, units
from lmtrain.data.prepare_config import PrepareConfig
units.UNIT_BYTES = {UNIT_BYTES}
build = builder.Builder.build
builder.Builder.build = lambda self, unit: (time.sleep(0.2), *build(self, unit))[1:]
config = PrepareConfig(input={str(corpus)!r}, out={str(out)!r}, tokenizer="bpe:300", workers=1)
prepare.prepare(config)
"""
    process = subprocess.Popen([sys.executable, "-c", slow], stderr=subprocess.DEVNULL)
    while len(list(folder.glob("0*.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("0*.json")}
    assert not out.exists()
    damaged = min(kept)
    damaged.with_suffix(".tok").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "one_thread", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(config(corpus, out))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert contents(prepare(config(corpus, out))) == whole
    assert not folder.exists()


def _interrupt() -> None:
    raise KeyboardInterrupt


def interrupted(corpus: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop after the first finished units."""
    note, count = tally.Tally.note, 0

    def stop(self: tally.Tally, report: Any) -> bool:
        nonlocal count
        count += report.done
        if count == 3:
            raise KeyboardInterrupt
        return note(self, report)

    with monkeypatch.context() as patch:
        patch.setattr(tally.Tally, "note", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(config(corpus, out))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tokenizer": "bytes"}, "tokenizer"),
        ({"max_documents": 7}, "max_documents"),
        ({"input": True}, "input"),
    ],
)
def test_finished_units_serve_no_other_preparation(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    named: str,
) -> None:
    interrupted(corpus, tmp_path / "store", monkeypatch)
    if change.pop("input", None):
        with corpus.open("a") as file:
            file.write('\n{"text": "one more"}')
    sentence = f"store.units holds an unfinished preparation with another {named}: delete it"
    with pytest.raises(ValueError, match=sentence):
        prepare(config(corpus, tmp_path / "store", **change))
    assert (tmp_path / ".store.units").is_dir()


def test_more_errors_may_be_allowed_when_it_goes_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in (1, 2):
        with pytest.raises(ValueError, match=r"more than max_errors=9 .*a.jsonl:124: "):
            prepare(config(corpus, tmp_path / "store", max_errors=9, workers=count))
        assert list((tmp_path / ".store.units").glob("0*.json"))
    store = Store(prepare(config(corpus, tmp_path / "store", max_errors=20)))
    assert store.manifest.counts.malformed == 20


@pytest.mark.parametrize("count", [1, 2])
def test_the_first_documents_are_the_same_across_units(
    corpus: Path, tmp_path: Path, count: int
) -> None:
    out = prepare(config(corpus, tmp_path / "store", max_documents=66, workers=count))
    counts = Store(out).manifest.counts
    assert (counts.documents, counts.empty, counts.malformed) == (66, 6, 6)


def test_paragraphs_of_one_file_are_shared_by_units(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    paragraphs = [f"paragraph {i}\n" + "line\n" * (i % 40) for i in range(200)]
    path.write_text("\n".join(paragraphs))
    out = prepare(config(path, tmp_path / "store", split=TextSplit.paragraph, tokenizer="bytes"))
    store = Store(out, Selection(val_fraction=0))
    assert store.manifest.counts.documents == 200
    assert store.manifest.counts.tokens == sum(map(len, paragraphs))
    assert len(units.plan_units(units_inputs(path), field="")) > 5


def units_inputs(path: Path) -> list[units.Input]:
    return [units.Input("", units.UnitKind.paragraph, (path,))]


def test_an_input_that_changes_meanwhile_is_refused(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tally.Tally.note

    def touch(self: tally.Tally, report: Any) -> bool:
        os.utime(corpus, (0, 0))
        return note(self, report)

    monkeypatch.setattr(tally.Tally, "note", touch)
    with pytest.raises(ValueError, match="the input changed while it was read"):
        prepare(config(corpus, tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_what_a_dead_worker_never_read_is_no_error() -> None:
    with workers._worker() as process:  # pyright: ignore[reportPrivateUsage]
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.write("a unit")
    assert process.stdin.closed


def test_a_worker_that_is_killed_is_a_sentence(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say = workers._say  # pyright: ignore[reportPrivateUsage]
    started: list[subprocess.Popen[str]] = []

    class Popen(subprocess.Popen[str]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self)

    def kill(file: Any, message: dict[str, Any]) -> None:
        if message.get("number") == 1:
            for process in started:
                process.send_signal(signal.SIGKILL)
        say(file, message)

    monkeypatch.setattr(workers, "_say", kill)
    monkeypatch.setattr(subprocess, "Popen", Popen)
    with pytest.raises(ValueError, match="a worker was ended by SIGKILL: if memory ran out"):
        prepare(config(corpus, tmp_path / "store", workers=2))
    assert all(process.poll() is not None for process in started)
