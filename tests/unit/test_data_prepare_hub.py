"""Datasets and tokenizers of the hub, its cache, and folders: no connection is needed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lmtrain.data import units
from lmtrain.data.choice import find_tokenizer
from lmtrain.data.estimate import estimate
from lmtrain.data.prepare import prepare
from lmtrain.data.prepare_config import InputFormat, PrepareConfig
from lmtrain.data.store import Selection, Side, Store
from lmtrain.data.tokenize import bytes_tokenizer, train_bpe

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = [f"text {i} of the dataset, " * (1 + i % 5) for i in range(300)]


def run(source: object, out: Path, **options: Any) -> Store:
    options = {"tokenizer": "bytes", "workers": 1, **options}
    return Store(
        prepare(PrepareConfig(input=str(source), out=str(out), **options)),
        Selection(val_fraction=0),
    )


def texts_of(store: Store) -> list[str]:
    tokenizer = store.tokenizer()
    return [
        tokenizer.decode(store.read(np.array([start]), int(length))[0].tolist())
        for start, length in zip(*store.documents(Side.train), strict=True)
    ]


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = pytest.importorskip("datasets")
    monkeypatch.setattr(module.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(module.config, "HF_HUB_OFFLINE", True)
    module.disable_progress_bars()
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of data files, as ``datasets`` loads it without a script."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for part in range(3):
        rows = [json.dumps({"body": text, "n": 1}) for text in TEXTS[100 * part : 100 * part + 100]]
        (folder / f"train-{part}.jsonl").write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_of_data_files(
    datasets: Any, folder: Path, tmp_path: Path, *, streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "UNIT_BYTES", 5000)
    store = run(f"hf:{folder}", tmp_path / "store", field="body", streaming=streaming)
    assert texts_of(store) == TEXTS
    [entry] = store.manifest.inputs
    assert entry.name == f"hf:{folder} train"
    assert entry.files == (0 if streaming else 1)


@pytest.mark.parametrize("splits", [False, True])
def test_a_dataset_that_was_saved(
    datasets: Any, tmp_path: Path, *, splits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "UNIT_BYTES", 3000)
    dataset = datasets.Dataset.from_dict({"text": TEXTS})
    both = datasets.DatasetDict({"train": dataset, "test": dataset.select(range(9))})
    (both if splits else dataset).save_to_disk(str(tmp_path / "saved"))
    saved, split = f"hf:{tmp_path / 'saved'}", "test" if splits else "train"
    store = run(saved, tmp_path / "store", dataset_split=split)
    assert texts_of(store) == (TEXTS[:9] if splits else TEXTS)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dataset_split": "test"}, "cannot be loaded .*ValueError: .*test.*check the name"),
        ({"dataset_split": "train[:10]"}, r"dataset_split=train\[:10\] is a part of the files"),
        ({"field": "text"}, "field=text is no column of .*: choose one of body, n"),
        ({"field": "text", "streaming": True}, "field=text is no column of .*: choose one of body"),
    ],
)
def test_what_a_dataset_does_not_have(
    datasets: Any, folder: Path, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        run(f"hf:{folder}", tmp_path / "store", **{"field": "body", **options})
    assert not list(tmp_path.glob(".store.*"))


def test_without_the_package_there_is_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ValueError, match=r"needs the package datasets: pip install 'lmtrain\[hub\]'"
    ):
        run("hf:somebody/something", tmp_path / "store")


def test_keys_of_datasets_need_a_dataset() -> None:
    config = PrepareConfig(input="a.txt", out="b", revision="main", streaming=True)
    assert [problem.partition(" ")[0] for problem in config.check()] == [
        "revision=main",
        "streaming=True",
    ]
    assert (
        "cannot know"
        in PrepareConfig(input="hf:a", out="b", streaming=True, dry_run=True).check()[0]
    )
    assert "workers=0" in PrepareConfig(input="a", out="b", workers=0).check()[0]


def test_a_tokenizer_in_a_folder_or_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    commit = "0123456789" * 4
    cache = tmp_path / "hub" / "models--some--body"
    snapshot = cache / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    bytes_tokenizer().save(str(snapshot / "tokenizer.json"))
    assert find_tokenizer(str(snapshot)) == (snapshot / "tokenizer.json", None)
    (tmp_path / "a.txt").write_text("a text")
    code = """
from lmtrain.data.prepare import prepare
from lmtrain.data.prepare_config import PrepareConfig
for name in ("some/body", "no/body"):
    prepare(PrepareConfig(input="a.txt", out=name[:2], tokenizer=name, workers=1))
"""
    offline = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=offline,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "tokenizer=no/body is no file or folder, and the hub does not give it" in done.stderr
    entry = Store(tmp_path / "so").manifest.tokenizer
    assert (entry.name, entry.revision) == ("some/body", commit)


def test_documents_may_begin_with_a_token(tmp_path: Path) -> None:
    tokenizer = train_bpe(TEXTS, vocab_size=280)
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.save(str(tmp_path / "mine.json"))
    (tmp_path / "a.txt").write_text("a text")
    options = {"tokenizer": str(tmp_path / "mine.json")}
    store = run(tmp_path / "a.txt", tmp_path / "store", begin_of_text="<s>", **options)
    begin = tokenizer.token_to_id("<s>")
    assert store.manifest.tokenizer.begin_of_text == begin
    [start], [length] = store.documents(Side.train)
    ids = store.read(np.array([start]), int(length))[0].tolist()
    assert ids == [begin, *tokenizer.encode("a text").ids, store.end_of_text]
    assert store.token_bytes is not None
    assert store.token_bytes[ids].sum() == len("a text")
    with pytest.raises(ValueError, match="has no token <b>: name its own with begin_of_text=TOKEN"):
        run(tmp_path / "a.txt", tmp_path / "other", begin_of_text="<b>", **options)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "txt"])
def test_an_estimate_is_near_and_writes_nothing(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "UNIT_BYTES", 4000)
    monkeypatch.setattr(import_module("lmtrain.data.estimate"), "SAMPLE_CHARACTERS", 4000)
    path = tmp_path / f"a.{kind}"
    data = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 5).encode()
    gzip: Any = import_module("gzip")
    path.write_bytes(gzip.compress(data, 1) if kind == "jsonl.gz" else data)
    config = PrepareConfig(
        input=str(path),
        out=str(tmp_path / "store"),
        tokenizer="bytes",
        workers=2,
        format=InputFormat.txt if kind == "txt" else InputFormat.jsonl,
    )
    guess = estimate(config)
    assert list(tmp_path.iterdir()) == [path]
    counts = Store(prepare(config)).manifest.counts
    if kind != "jsonl.gz":  # a small compressed file is read at once
        assert guess.share < 0.3 if kind == "jsonl" else guess.share == 1
        assert guess.tokens == pytest.approx(counts.tokens, rel=0.1)
        assert guess.documents == pytest.approx(counts.documents, rel=0.1)
    assert "nothing was written" in str(guess)
