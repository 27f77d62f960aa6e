from __future__ import annotations

import struct
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from data_stores import problems_of, random_texts, write_store
from hypothesis import given, settings
from hypothesis import strategies as st
from token_files import (
    DOCUMENTS,
    END,
    STORED,
    WRITERS,
    datatrove,
    documents_of,
    dolma,
    import_config,
    megatron,
    split_of,
)
from tokenizers import Tokenizer, models

from lmtrain.data.arrays import load_documents
from lmtrain.data.manifest import DOCUMENT_HASH, TOKEN_HASH
from lmtrain.data.modes import run_mode
from lmtrain.data.prepare_config import InputFormat, Mode, PrepareConfig
from lmtrain.data.store import Selection, Side, Store
from lmtrain.data.tokenize import bytes_tokenizer, text_hash, token_texts, train_bpe
from lmtrain.data.tools.datatrove import read_datatrove
from lmtrain.data.tools.dolma import read_dolma
from lmtrain.data.tools.foreign import TokenFile
from lmtrain.data.tools.ingest import find_token_files
from lmtrain.data.tools.megatron import read_megatron
from lmtrain.data.tools.texts import Hasher

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", WRITERS)
def test_documents_are_imported(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = WRITERS[kind](tmp_path, DOCUMENTS)
    run_mode(import_config(path, tmp_path / "store", kind))
    store = Store(tmp_path / "store", Selection(val_fraction=0))
    assert documents_of(store) == STORED
    assert problems_of(store.folder) == []
    assert store.manifest.counts.empty == 2
    assert store.manifest.document_hash == DOCUMENT_HASH
    hashes = load_documents(store.folder, store.manifest.shards[0])["hash"].tolist()
    assert hashes == [text_hash(t) for t in ("hi", "a", "éb", "c<|endoftext|>d")]
    assert store.manifest.inputs[0].files == {"megatron": 2, "datatrove": 3, "dolma": 2}[kind]
    told = capsys.readouterr().out
    assert "4 documents, 13 tokens; left out: 2 empty; added: 1 ends of text" in told
    assert "inside of documents: 1" in told


@pytest.mark.parametrize("code", [4, 5, 8])
@pytest.mark.parametrize("cut", [1, 2, 100])
def test_megatron_documents_of_several_sequences(tmp_path: Path, code: int, cut: int) -> None:
    file = read_megatron(megatron(tmp_path, DOCUMENTS, code=code, cut=cut))
    assert split_of(file) == DOCUMENTS


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
@pytest.mark.parametrize(("write", "read"), [(datatrove, read_datatrove), (dolma, read_dolma)])
def test_the_width_of_ids_is_known_from_the_documents(
    tmp_path: Path, write: Any, read: Any, dtype: str
) -> None:
    assert split_of(read(write(tmp_path, DOCUMENTS, dtype))) == DOCUMENTS


def export(store: Path, prefix: Path) -> None:
    run_mode(
        PrepareConfig(
            mode=Mode.export, input=str(store), out=str(prefix), format=InputFormat.megatron
        )
    )


def test_a_store_goes_to_megatron_and_back(tmp_path: Path) -> None:
    store = write_store(tmp_path / "a", random_texts(40, longest=300), shard_tokens=900)
    assert len(store.manifest.shards) > 2
    export(tmp_path / "a", tmp_path / "out" / "b.v1")
    exported = tmp_path / "out" / "b.v1.idx"
    assert sorted(p.name for p in exported.parent.iterdir()) == ["b.v1.bin", "b.v1.idx"]
    run_mode(import_config(exported, tmp_path / "c", "megatron"))
    before, after = (Store(tmp_path / name, Selection(val_fraction=0)) for name in "ac")
    assert documents_of(after) == documents_of(before)
    sides = [Store(tmp_path / name, Selection(val_fraction=0.3)) for name in "ac"]
    starts = [store.documents(Side.validation).starts.tolist() for store in sides]
    assert starts[0] == starts[1] != []  # hashes of the text survive, and so does the split
    with pytest.raises(ValueError, match=r"b.v1.idx exists: choose another out=PREFIX"):
        export(tmp_path / "a", tmp_path / "out" / "b.v1")


def test_documents_begin_with_the_token_that_begins_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = bytes_tokenizer()
    tokenizer.add_special_tokens(["<s>"])  # pyright: ignore[reportUnknownMemberType]
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    begin = 257
    documents = [[begin, 97, END], [98], [begin], [begin, END], [END, END], [begin, begin, 99, END]]
    source = datatrove(tmp_path, documents)
    keys = {"tokenizer": str(path), "begin_of_text": "<s>"}
    run_mode(import_config(source, tmp_path / "store", "datatrove", **keys))
    store = Store(tmp_path / "store", Selection(val_fraction=0))
    assert documents_of(store) == [
        [begin, 97, END],
        [begin, 98, END],
        [begin, END, END],  # a document of nothing but an end that is not its own
        [begin, begin, 99, END],
    ]
    assert store.manifest.tokenizer.begin_of_text == begin
    assert problems_of(store.folder) == []
    assert "left out: 2 empty; added: 1 ends of text, 2 beginnings" in capsys.readouterr().out
    hashes = load_documents(store.folder, store.manifest.shards[0])["hash"].tolist()
    assert hashes[:2] == [text_hash("a"), text_hash("b")]


def test_the_exported_index_is_what_megatron_reads(tmp_path: Path) -> None:
    write_store(tmp_path / "a", ["abc", "d"])
    export(tmp_path / "a", tmp_path / "b")
    index = (tmp_path / "b.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    assert struct.unpack("<QBQQ", index[9:34]) == (1, 8, 2, 3)
    assert struct.unpack("<2i2q3q", index[34:]) == (4, 2, 0, 8, 0, 1, 2)
    assert np.fromfile(tmp_path / "b.bin", "<u2").tolist() == [97, 98, 99, END, 100, END]


def test_files_of_a_folder_are_taken_in_order(tmp_path: Path) -> None:
    for name in ("b", "a/c"):
        (tmp_path / name).mkdir(parents=True)
        datatrove(tmp_path / name, DOCUMENTS)
    files = find_token_files(str(tmp_path), InputFormat.datatrove)
    assert files == [tmp_path / "a" / "c" / "all.ds", tmp_path / "b" / "all.ds"]
    assert find_token_files(str(tmp_path / "*" / "*"), InputFormat.datatrove) == files[1:]
    (tmp_path / "[b].npy").touch()
    assert find_token_files(str(tmp_path / "[b].npy"), InputFormat.dolma) == [tmp_path / "[b].npy"]
    (tmp_path / "[b].npy").unlink()
    with pytest.raises(ValueError, match=r"has no .npy files for format=dolma"):
        find_token_files(str(tmp_path), InputFormat.dolma)
    run_mode(import_config(tmp_path, tmp_path / "store", "datatrove"))
    store = Store(tmp_path / "store", Selection(val_fraction=0))
    assert documents_of(store) == STORED * 2
    assert (
        load_documents(store.folder, store.manifest.shards[0])["source"].tolist()
        == [0] * 4 + [1] * 4
    )


@pytest.mark.parametrize("block", [1, 5, 1000])
def test_blocks_are_whole_documents(block: int) -> None:
    ends = np.array([0, 3, 3, 10, 11, 11])
    file = TokenFile(paths=(), tokens=np.arange(11), ends=ends)
    blocks = list(file.blocks(block))
    assert np.concatenate([tokens for tokens, _ in blocks]).tolist() == list(range(11))
    assert np.concatenate([lengths for _, lengths in blocks]).tolist() == [0, 3, 0, 7, 1, 0]
    assert all(lengths.sum() == len(tokens) for tokens, lengths in blocks)
    assert all(len(tokens) <= block or (lengths > 0).sum() == 1 for tokens, lengths in blocks)


TRAINED = train_bpe(["the quick brown fox, élan – 第三 " * 20], vocab_size=300)


HASHERS = [(tokenizer, Hasher.of(tokenizer)) for tokenizer in (bytes_tokenizer(), TRAINED)]


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=5))
def test_hashes_of_ids_are_those_of_the_texts(texts: list[str]) -> None:
    for tokenizer, hasher in HASHERS:
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        lengths = np.array([len(part) for part in ids])
        hashes = hasher(np.array([*chain(*ids)]), lengths)
        assert hashes.tolist() == [text_hash(text) for text in texts]


def test_a_long_document_is_hashed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a long document – " * 50
    ids = np.array(TRAINED.encode(text, add_special_tokens=False).ids)
    monkeypatch.setattr("lmtrain.data.tools.texts.SPELLED_TOKENS", 7)
    assert Hasher.of(TRAINED)(ids, np.array([len(ids)])).tolist() == [text_hash(text)]


def test_other_tokenizers_hash_ids(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "</s>": 2}, unk_token="a"))
    assert token_texts(tokenizer) is None
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    path = megatron(tmp_path, [[0, 1, 2], [1, 1, 0], [0, 1]])
    config = import_config(
        path, tmp_path / "store", "megatron", tokenizer=str(tmp_path / "tokenizer.json")
    )
    run_mode(config)
    store = Store(tmp_path / "store")
    assert store.manifest.document_hash == TOKEN_HASH
    first, second, third = load_documents(store.folder, store.manifest.shards[0])["hash"].tolist()
    assert first == third != second  # equal documents are on one side, ended or not
