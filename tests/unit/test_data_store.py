from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from data_stores import problems_of, random_texts, write_store

from lmtrain.data.config import DataConfig
from lmtrain.data.lock import locked
from lmtrain.data.manifest import Manifest, inside, sample_sha256, token_dtype
from lmtrain.data.store import Selection, Side, Store, open_store
from lmtrain.data.tokenize import bytes_tokenizer, token_bytes
from lmtrain.data.writer import Writer

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = random_texts(60, longest=600)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_store(tmp_path / "store", TEXTS)
    return tmp_path / "store"


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("shard_tokens", [1 << 31, 1500])
def test_documents_come_back_in_order(tmp_path: Path, shard_tokens: int) -> None:
    store = write_store(tmp_path / "store", TEXTS, shard_tokens=shard_tokens, val_fraction=0)
    documents = store.documents(Side.train)
    assert (len(store.manifest.shards) > 1) == (shard_tokens == 1500)
    assert max(shard.tokens for shard in store.manifest.shards) <= shard_tokens
    assert len(documents.starts) == len(TEXTS)
    for start, length, text in zip(*documents, TEXTS, strict=True):
        (tokens,) = store.read(np.array([start]), int(length))
        assert bytes(tokens[:-1].astype(np.uint8)).decode() == text
        assert tokens[-1] == store.end_of_text
    assert problems_of(tmp_path / "store") == []


def test_pieces_of_several_shards_are_read_at_once(tmp_path: Path) -> None:
    one = write_store(tmp_path / "one", TEXTS)
    many = write_store(tmp_path / "many", TEXTS, shard_tokens=700)
    documents = one.documents(Side.train)
    starts = documents.starts[documents.lengths >= 9][::-1]
    np.testing.assert_array_equal(one.read(starts, 9), many.read(starts, 9))


def test_the_split_is_by_text_and_disjoint(tmp_path: Path) -> None:
    store = write_store(tmp_path / "a", [*TEXTS, *TEXTS], val_fraction=0.3)  # each text twice
    train, validation = store.documents(Side.train), store.documents(Side.validation)
    assert len(train.starts) + len(validation.starts) == 2 * len(TEXTS)
    assert len(validation.starts) > 0

    def texts(side: Side) -> set[bytes]:
        pairs = zip(*store.documents(side), strict=True)
        return {store.read(np.array([s]), int(n)).tobytes() for s, n in pairs}

    assert not texts(Side.train) & texts(Side.validation)


def test_limits_keep_the_first_documents(folder: Path) -> None:
    def documents(**limits: int) -> int:
        store = Store(folder, Selection(val_fraction=0, **limits))
        return len(store.documents(Side.train).starts)

    ends = np.cumsum([len(text) + 1 for text in TEXTS])
    assert documents(max_documents=7) == 7
    assert documents(max_tokens=int(ends[4])) == 5
    assert documents(max_tokens=int(ends[4]) - 1) == 4
    assert documents(max_tokens=1) == 1
    assert documents(max_tokens=int(ends[4]), max_documents=2) == 2
    assert documents(max_documents=10**9) == len(TEXTS)


def test_wide_vocabularies_take_four_bytes() -> None:
    assert token_dtype(65_536) == np.uint16
    assert token_dtype(65_537) == np.uint32


def test_bytes_per_token_are_known(folder: Path) -> None:
    assert (Store(folder).token_bytes == token_bytes(bytes_tokenizer())).all()


def test_open_by_configuration(folder: Path) -> None:
    store = open_store(DataConfig(source=str(folder), val_fraction=0, max_documents=3))
    assert len(store.documents(Side.train).starts) == 3


def test_a_missing_store_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder: prepare a store"):
        open_store(DataConfig(source=str(tmp_path / "nowhere")))


def test_a_missing_manifest_is_a_sentence(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match="manifest.json is missing.*lmtrain prepare"):
        Store(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"format_version": 1}'])
def test_a_damaged_manifest_is_a_sentence(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="cannot be read .*prepare the store again"):
        Store(folder)


def test_another_format_version_is_refused(folder: Path) -> None:
    edit(folder, format_version=99)
    with pytest.raises(ValueError, match="format version 99, not 1"):
        Store(folder)


@pytest.mark.parametrize("suffix", ["tok", "off.npy", "doc.npy"])
def test_a_truncated_file_is_a_sentence(folder: Path, suffix: str) -> None:
    path = folder / f"shard-00000.{suffix}"
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(ValueError, match=f"{path.name} has {size - 1:,} bytes, not {size:,}"):
        Store(folder)
    path.unlink()
    with pytest.raises(ValueError, match=f"{path.name} is missing"):
        Store(folder)


def test_changed_contents_of_the_same_size_are_seen(folder: Path) -> None:
    path = folder / "shard-00000.tok"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"shard-00000.tok has changed since it was written"):
        Store(folder)


def test_a_sample_reads_both_ends_of_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "large"
    data = bytearray(1 << 20)
    path.write_bytes(data)
    before = sample_sha256(path)
    for place in (0, len(data) - 1):
        path.write_bytes(data[:place] + b"x" + data[place + 1 :])
        assert sample_sha256(path) != before


def test_verify_reads_everything(tmp_path: Path) -> None:
    write_store(tmp_path / "store", ["a" * (1 << 20)])
    path = tmp_path / "store" / "shard-00000.tok"
    data = bytearray(path.read_bytes())
    data[6000] = 0x80  # between two blocks of the sample
    data[-2] = 7  # the end of the text
    path.write_bytes(data)
    problems = problems_of(tmp_path / "store")
    assert len(problems) == 3
    for word in ("changed", "has ids", "do not end with token 256"):
        assert any(word in problem for problem in problems)


def test_another_tokenizer_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ValueError, match=r"tokenizer.json is not the tokenizer that wrote"):
        Store(folder)
    path.unlink()
    with pytest.raises(ValueError, match=r"tokenizer.json is not the tokenizer that wrote"):
        Store(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", ".", "", "a/b", "a\0b"])
def test_a_manifest_cannot_name_files_elsewhere(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not a file beside it"):
        inside(folder, name)
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    shards[0]["token_file"]["file"] = name
    edit(folder, shards=shards)
    with pytest.raises(ValueError, match="is not a file beside it"):
        Store(folder)


def test_nothing_is_unpickled(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    path = folder / "shard-00000.off.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert np.load(path, allow_pickle=True).item() == {"a": 1}  # it does hold a pickle
    entry = manifest["shards"][0]["offset_file"]
    entry.update(bytes=path.stat().st_size, sample=sample_sha256(path))
    edit(folder, shards=manifest["shards"])
    with pytest.raises(ValueError, match="off.npy is no array file .*allow_pickle=False"):
        Store(folder).documents(Side.train)


def test_borders_out_of_order_are_refused(folder: Path) -> None:
    path = folder / "shard-00000.off.npy"
    offsets = np.load(path)
    offsets[[3, 4]] = offsets[[4, 3]]
    np.save(path, offsets)
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    shards[0]["offset_file"]["sample"] = sample_sha256(path)
    edit(folder, shards=shards)
    with pytest.raises(ValueError, match="borders out of order"):
        Store(folder).documents(Side.train)


def test_a_vocabulary_too_small_for_the_ids_is_refused(folder: Path) -> None:
    edit(folder, vocab_size=200)
    with pytest.raises(ValueError, match="contradicts itself"):
        Store(folder)


def test_more_tokens_than_the_file_holds_are_refused(folder: Path) -> None:
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    shards[0]["tokens"] += 1
    edit(folder, shards=shards)
    with pytest.raises(ValueError, match="contradicts itself"):
        Store(folder)


def test_an_empty_store_is_refused(folder: Path, tmp_path: Path) -> None:
    edit(folder, shards=[])
    with pytest.raises(ValueError, match="holds no documents"):
        Store(folder)
    with pytest.raises(ValueError, match="no text for"):
        write_store(tmp_path / "blank", ["", " \n"])
    assert not (tmp_path / "blank").exists()


def test_a_failed_writer_leaves_nothing(tmp_path: Path) -> None:
    writer = Writer(
        out=tmp_path / "store", tokenizer=bytes_tokenizer(), tokenizer_name="bytes", end_of_text=256
    )
    with pytest.raises(TypeError), writer:
        writer.add(["text", "half of a pair \ud800"])
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_reads_what_it_wrote(folder: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(folder)
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert manifest.counts.documents == len(TEXTS)


def test_equal_contents_have_equal_checksums(tmp_path: Path) -> None:
    stores = [write_store(tmp_path / str(i), texts) for i, texts in enumerate([TEXTS, TEXTS[1:]])]
    again = write_store(tmp_path / "again", TEXTS)
    assert again.manifest.checksum == stores[0].manifest.checksum != stores[1].manifest.checksum


HOLD = """
import sys, time
from pathlib import Path
from lmtrain.data.lock import locked
with locked(Path(sys.argv[1]), wait=False):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_names_its_owner_and_dies_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=f"store is being written by process {owner.pid} on"),
            locked(folder, wait=False),
        ):
            pass
        owner.kill()
    with locked(folder, wait=False):
        pass
    assert list(tmp_path.iterdir()) == []
