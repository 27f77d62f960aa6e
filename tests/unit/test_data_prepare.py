from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_stores import problems_of
from tokenizers import Tokenizer, models

from lmtrain.data.inputs import find_files
from lmtrain.data.lock import locked
from lmtrain.data.prepare import prepare
from lmtrain.data.prepare_config import InputFormat, PrepareConfig, TextSplit
from lmtrain.data.store import Selection, Side, Store
from lmtrain.data.tokenize import END_OF_TEXT, train_bpe

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = [
    "first document",
    "zweites Dökument\nwith two lines",
    "第三 " * 40,
    "the last, without end",
]


def jsonl(texts: list[str], field: str = "text") -> str:
    return "".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(texts))


def run(tmp_path: Path, source: Path | str, **options: Any) -> Store:
    config = PrepareConfig(
        input=str(source), out=str(tmp_path / "store"), **{"tokenizer": "bytes", **options}
    )
    return Store(prepare(config), Selection(val_fraction=0))


def texts_of(store: Store) -> list[str]:
    tokenizer = store.tokenizer()
    return [
        tokenizer.decode(store.read(np.array([start]), int(length))[0][:-1].tolist())
        for start, length in zip(*store.documents(Side.train), strict=True)
    ]


def write(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"corpus.{kind}"
    match kind:
        case "jsonl":
            path.write_text(jsonl(TEXTS), encoding="utf-8")
        case "jsonl.gz":
            path.write_bytes(gzip.compress(jsonl(TEXTS).rstrip().encode()))
        case "parquet":
            pq.write_table(pa.table({"text": TEXTS, "n": [1, 2, 3, 4]}), path, row_group_size=3)
        case "txt":
            path.write_text(TEXTS[1], encoding="utf-8")
        case "folder":
            (path / "inner").mkdir(parents=True)
            for i, text in enumerate(TEXTS):
                (path / "inner" / f"{i}.txt").write_text(text, encoding="utf-8")
            (path / ".hidden").mkdir()
            (path / ".hidden" / "a.txt").write_text("not a document")
            (path / "ignored.bin").write_bytes(b"\xff")
    return path


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "folder", "txt"])
def test_every_format_gives_its_documents(tmp_path: Path, kind: str) -> None:
    store = run(tmp_path, write(tmp_path, kind))
    assert texts_of(store) == (TEXTS[1:2] if kind == "txt" else TEXTS)
    assert problems_of(store.folder) == []
    assert store.manifest.inputs[0].files == (4 if kind == "folder" else 1)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (TextSplit.file, ["a b\nc\n\n \n\nd\n"]),
        (TextSplit.line, ["a b", "c", "d"]),
        (TextSplit.paragraph, ["a b\nc", "d"]),
    ],
)
def test_text_files_can_be_split(tmp_path: Path, split: TextSplit, expected: list[str]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a b\nc\n\n \n\nd\n")
    store = run(tmp_path, path, split=split)
    assert texts_of(store) == expected
    assert store.manifest.counts.empty == 0


def test_a_pattern_and_a_field(tmp_path: Path) -> None:
    for name in "ba":
        (tmp_path / f"{name}.jsonl").write_text(jsonl([f"from {name}"], field="body"))
    store = run(tmp_path, tmp_path / "*.jsonl", field="body", format=InputFormat.jsonl)
    assert texts_of(store) == ["from a", "from b"]
    assert [entry.name[-7:] for entry in store.manifest.inputs] == ["a.jsonl", "b.jsonl"]


def test_folders_behind_links_are_entered_once(tmp_path: Path) -> None:
    corpus, elsewhere = tmp_path / "corpus", tmp_path / "elsewhere"
    for folder in (corpus / ".hidden", elsewhere / "deep"):
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text(f"in {folder.name}")
    (corpus / "link").symlink_to(elsewhere)
    (corpus / "link again").symlink_to(elsewhere)
    (elsewhere / "deep" / "round").symlink_to(corpus)
    assert texts_of(run(tmp_path, corpus)) == ["in deep"]


def test_files_that_are_left_out_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.ndjson").write_text(jsonl(["a"]))
    assert texts_of(run(tmp_path, corpus)) == ["a"]
    assert "not read" not in capsys.readouterr().err
    for name in ("b.JSON", "c.json", "README"):
        (corpus / name).write_text(jsonl(["b"]))
    config = PrepareConfig(input=str(corpus))
    assert find_files(config) == [corpus / "a.ndjson"]
    assert "are not read, 2 of .json, 1 of no suffix: format=" in capsys.readouterr().err
    assert len(find_files(replace(config, format=InputFormat.jsonl))) == 4
    assert capsys.readouterr().err == ""


def test_malformed_and_empty_documents_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    lines = ['{"text": "good"}', "{broken", "", '{"other": 1}', '{"text": ""}', "[1]"]
    lines += ['{"text": 3}', '{"text": "\\ud800"}', '{"text": "also good"}']
    path.write_text("\n".join(lines))
    store = run(tmp_path, path)
    assert texts_of(store) == ["good", "also good"]
    assert (store.manifest.counts.empty, store.manifest.counts.malformed) == (1, 5)
    printed = capsys.readouterr().out
    assert "2 documents, 15 tokens" in printed
    for number in (2, 4, 6, 7, 8):
        assert f"{path}:{number}: " in printed


def test_too_many_errors_stop_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(jsonl(["good"]) + "{\n{\n{\n")
    with pytest.raises(ValueError, match=r"more than max_errors=2 .*a.jsonl:4: "):
        run(tmp_path, path, max_errors=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl"]


def test_a_text_that_is_not_utf8_is_malformed(tmp_path: Path) -> None:
    folder = write(tmp_path, "folder")
    (folder / "latin.txt").write_bytes("é".encode("latin-1"))
    assert run(tmp_path, folder).manifest.counts.malformed == 1


def test_another_store_is_never_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl")
    before = run(tmp_path, path).manifest
    with pytest.raises(ValueError, match=r"out=.*store exists: choose another folder"):
        run(tmp_path, path)
    assert Store(tmp_path / "store").manifest == before


def test_a_store_that_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl")
    being_written = pytest.raises(ValueError, match="store is being written by process")
    with locked(tmp_path / "store", wait=False), being_written:
        run(tmp_path, path)


def test_a_trained_tokenizer_is_deterministic(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(jsonl([f"a text with number {i} in it" for i in range(200)]))
    stores = []
    for name in "ab":
        config = PrepareConfig(input=str(path), out=str(tmp_path / name), tokenizer="bpe:300")
        stores.append(Store(prepare(config)))
    assert stores[0].manifest.tokenizer == stores[1].manifest.tokenizer
    assert stores[0].manifest.checksum == stores[1].manifest.checksum
    assert 257 < stores[0].vocab_size <= 300
    assert END_OF_TEXT in stores[0].tokenizer().get_vocab()


def test_the_bytes_of_the_tokens_are_the_bytes_of_the_texts(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl")
    store = run(tmp_path, path, tokenizer="bpe:280")
    sizes = store.token_bytes
    assert sizes is not None
    for text, (start, length) in zip(
        TEXTS, zip(*store.documents(Side.train), strict=True), strict=True
    ):
        tokens = store.read(np.array([start]), int(length))
        assert sizes[tokens].sum() == len(text.encode())


def test_a_given_tokenizer_is_kept(tmp_path: Path) -> None:
    tokenizer = train_bpe(TEXTS, vocab_size=270)
    tokenizer.add_special_tokens(["<stop>"])
    tokenizer.save(str(tmp_path / "mine.json"))
    store = run(
        tmp_path,
        write(tmp_path, "jsonl"),
        tokenizer=str(tmp_path / "mine.json"),
        end_of_text="<stop>",
    )
    assert texts_of(store) == TEXTS
    assert store.end_of_text == tokenizer.token_to_id("<stop>") == store.vocab_size - 1
    assert store.tokenizer().get_vocab() == tokenizer.get_vocab()


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path) -> None:
    words = {"word": 66_000, "<eos>": 66_001}
    Tokenizer(models.WordLevel(words, unk_token="word")).save(str(tmp_path / "mine.json"))
    path = tmp_path / "a.txt"
    path.write_text("word")
    store = run(tmp_path, path, tokenizer=str(tmp_path / "mine.json"))
    assert store.manifest.dtype == "<u4"
    assert store.read(np.array([0]), 2).tolist() == [[66_000, 66_001]]
    assert store.token_bytes is None


def test_only_the_first_documents(tmp_path: Path) -> None:
    assert texts_of(run(tmp_path, write(tmp_path, "jsonl"), max_documents=2)) == TEXTS[:2]


def test_a_vocabulary_that_the_text_does_not_fill_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = run(tmp_path, write(tmp_path, "jsonl"), tokenizer="bpe:9999")
    assert f"bpe:9999 ends with {store.vocab_size} tokens: the text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "options", "sentence"),
    [
        ("a.jsonl", None, {}, "names no file to read"),
        ("a.bin", b"x", {}, "has no suffix that tells"),
        ("a.jsonl.gz", b"not gzip", {}, "cannot be read"),
        ("a.parquet", b"not parquet", {}, "is no parquet file"),
        ("a.txt", b" \n", {}, "every document of the input is empty"),
        ("a.jsonl", b'{"txt": "x", "n": 1}', {}, ":1: field=text is not there: .* of txt, n"),
        ("a.txt", b"x", {"tokenizer": "missing.json"}, "tokenizer missing.json is missing"),
        ("a.txt", b"x", {"end_of_text": "<no>"}, "has no token <no>"),
        ("a.txt", b"x", {"tokenizer": "bpe:7"}, "bpe:7 is too small"),
    ],
)
def test_bad_input_is_a_sentence(
    tmp_path: Path, name: str, content: bytes | None, options: dict[str, Any], sentence: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        run(tmp_path, path, **options)
    assert not (tmp_path / "store").exists()


def test_a_tokenizer_without_text_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text(jsonl(["x"], field="txt"))
    with pytest.raises(ValueError, match="field=text is not there: choose one of id, txt"):
        run(tmp_path, tmp_path / "a.jsonl", tokenizer="bpe:300")
    assert "ends with 257 tokens: its sample holds no text" in capsys.readouterr().err


def test_a_missing_column_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="field=body is no column of .*choose one of text, n"):
        run(tmp_path, write(tmp_path, "parquet"), field="body")
