from __future__ import annotations

import gzip
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from token_files import DOCUMENTS, END, WRITERS, datatrove, dolma, import_config, megatron, split_of

from lmtrain.data.modes import run_mode
from lmtrain.data.prepare_config import InputFormat
from lmtrain.data.tools.datatrove import read_datatrove

if TYPE_CHECKING:
    from pathlib import Path


def refused(folder: Path, kind: str, sentence: str, **keys: Any) -> None:
    """The import is refused, and leaves nothing behind."""
    path = {"megatron": "all", "datatrove": "all.ds", "dolma": "part-0-00000.npy"}[kind]
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match=sentence):
        run_mode(import_config(folder / path, folder / "store", kind, **keys))
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("kind", WRITERS)
def test_ids_beyond_the_vocabulary_are_refused(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path, [[1, 2], [3, 257]])
    refused(tmp_path, kind, "holds id 257, and the ids of the tokenizer are 0 to 256: give")


def test_negative_ids_are_refused(tmp_path: Path) -> None:
    megatron(tmp_path, [[1, -2]], code=4)
    refused(tmp_path, "megatron", "holds id -2")


@pytest.mark.parametrize("kind", WRITERS)
def test_truncated_tokens_are_refused(tmp_path: Path, kind: str) -> None:
    path = WRITERS[kind](tmp_path, DOCUMENTS)
    path = path.with_suffix(".bin") if kind == "megatron" else path
    path.write_bytes(path.read_bytes()[:-1])
    refused(tmp_path, kind, r"has 25 bytes, which is n.* 13 tokens.*: copy both files again")


@pytest.mark.parametrize(
    ("kind", "name"),
    [("megatron", "all.idx"), ("megatron", "all.bin"), ("datatrove", "all.ds.index")],
)
def test_missing_files_are_named(tmp_path: Path, kind: str, name: str) -> None:
    WRITERS[kind](tmp_path, DOCUMENTS)
    (tmp_path / name).unlink()
    refused(tmp_path, kind, f"{name} is missing")


def test_boundaries_are_never_guessed(tmp_path: Path) -> None:
    dolma(tmp_path, DOCUMENTS)
    (tmp_path / "part-0-00000.csv.gz").unlink()
    refused(tmp_path, "dolma", "csv.gz is missing, so nobody knows where the documents.*tokenise")


def test_an_array_with_a_header_is_no_dolma_file(tmp_path: Path) -> None:
    dolma(tmp_path, DOCUMENTS)
    np.save(tmp_path / "part-0-00000.npy", np.arange(4))
    refused(tmp_path, "dolma", "is an array with a header")


@pytest.mark.parametrize(
    ("rows", "line"),
    [("0,3\n4,5\n", 2), ("0,3\n3,2\n", 2), ("0\n", 1), ("start,end\n", 1), ("0,3\n\n", 2)],
)
def test_a_damaged_table_is_told_by_line(tmp_path: Path, rows: str, line: int) -> None:
    dolma(tmp_path, DOCUMENTS)
    with gzip.open(tmp_path / "part-0-00000.csv.gz", "wt") as file:
        file.write(rows)
    refused(tmp_path, "dolma", rf"csv.gz:{line} cannot be read .*: copy it again")


def test_a_truncated_table_is_refused(tmp_path: Path) -> None:
    dolma(tmp_path, DOCUMENTS)
    path = tmp_path / "part-0-00000.csv.gz"
    path.write_bytes(path.read_bytes()[:-9])
    refused(tmp_path, "dolma", "cannot be read")


@pytest.mark.parametrize(
    ("first", "change", "sentence"),
    [
        (0, b"X", "is no index of Megatron"),
        (9, b"\x02", "has version 2, not 1"),
        (17, b"\x06", "has type 6, which holds no token ids"),
        (17, b"\x63", "has type 99"),
        (18, b"\x63", r"has \d+ bytes, not [\d,]+: copy it again"),
        (34, b"\xff\xff\xff\xff", "do not follow one another"),
        (34 + 24 + 1, b"\x09", "do not follow one another"),
        (34 + 72, b"\x01", "do not cover its 6 sequences"),
        (34 + 72 + 8, b"\x05", "borders out of order"),
    ],
)
def test_a_damaged_megatron_index_is_refused(
    tmp_path: Path, first: int, change: bytes, sentence: str
) -> None:
    path = megatron(tmp_path, DOCUMENTS).with_suffix(".idx")
    data = bytearray(path.read_bytes())
    data[first : first + len(change)] = change
    path.write_bytes(data)
    refused(tmp_path, "megatron", sentence)


def test_a_header_cut_short_is_refused(tmp_path: Path) -> None:
    path = megatron(tmp_path, DOCUMENTS).with_suffix(".idx")
    path.write_bytes(path.read_bytes()[:20])
    refused(tmp_path, "megatron", "ends within its header")


def test_modes_of_sequences_are_refused(tmp_path: Path) -> None:
    path = megatron(tmp_path, DOCUMENTS).with_suffix(".idx")
    path.write_bytes(path.read_bytes() + b"\x00" * 6)
    refused(tmp_path, "megatron", "gives sequences modes")


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("all.ds.index", b"1234567", "has 7 bytes, which is not 8 a document"),
        ("all.ds.index", struct.pack("<2Q", 5, 3), "borders out of order"),
        ("all.ds.index", struct.pack("<2Q", 1 << 63, 3), "borders out of order"),
        ("all.ds.metadata", b"gpt2|4\n13\n", "says 4 bytes a token for gpt2"),
        ("all.ds.metadata", b"gpt2\n14\n", "says 14 tokens, and the index 13"),
        ("all.ds.loss", b"\x01" * 13, "leaves tokens out of the loss"),
    ],
)
def test_datatrove_files_must_agree(tmp_path: Path, name: str, data: bytes, sentence: str) -> None:
    datatrove(tmp_path, DOCUMENTS)
    (tmp_path / name).write_bytes(data)
    refused(tmp_path, "datatrove", sentence)


@pytest.mark.parametrize("metadata", [None, b"", b"gpt2", b"gpt2\n13\n13 T"])
def test_datatrove_metadata_may_say_little(tmp_path: Path, metadata: bytes | None) -> None:
    path = datatrove(tmp_path, DOCUMENTS)
    told = tmp_path / "all.ds.metadata"
    told.unlink()
    if metadata is not None:
        told.write_bytes(metadata)
    assert split_of(read_datatrove(path)) == DOCUMENTS


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"tokenizer": "bpe:300"}, "tokenizer=bpe:300 would be trained.*give its tokenizer.json"),
        ({"tokenizer": "/nowhere.json"}, "/nowhere.json is missing"),
        ({"end_of_text": "<end>"}, "the tokenizer has no token <end>"),
        ({"format": InputFormat.jsonl}, "format=jsonl is not for mode=import: use one of megatron"),
        ({"format": InputFormat.auto}, "format=auto is not for mode=import"),
    ],
)
def test_keys_of_import_are_checked(tmp_path: Path, keys: dict[str, Any], sentence: str) -> None:
    megatron(tmp_path, DOCUMENTS)
    config = import_config(tmp_path / "all", tmp_path / "store", "megatron")
    for key, value in keys.items():
        setattr(config, key, value)
    with pytest.raises(ValueError, match=sentence):
        run_mode(config)
    assert not (tmp_path / "store").exists()


def test_only_empty_documents_are_no_store(tmp_path: Path) -> None:
    megatron(tmp_path, [[], [END]])
    refused(tmp_path, "megatron", "every document of the input is empty")
    (tmp_path / "store").mkdir()
    refused(tmp_path, "megatron", "store exists: choose another folder")
