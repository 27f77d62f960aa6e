"""One test for each way that a store can fail; each is named for what goes wrong."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from data_stores import problems_of, random_texts, write_store

from lmtrain.config import compose
from lmtrain.data.config import DataConfig
from lmtrain.data.loader import Loader
from lmtrain.data.plan import Plan
from lmtrain.data.store import Selection, Store, open_store
from lmtrain.data.tokenize import train_bpe
from lmtrain.data.validation import ValidationSet

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = random_texts(80, longest=900)
CURRICULUM = compose(["curriculum.max_length=256"]).curriculum


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_store(tmp_path / "store", TEXTS)
    return tmp_path / "store"


@pytest.mark.parametrize(("bytes_lost", "part"), [(1, " and a part of one"), (200, "")])
def test_shard_truncated_or_of_odd_byte_count(folder: Path, bytes_lost: int, part: str) -> None:
    path = folder / "shard-00000.tok"
    tokens = sum(len(text) + 1 for text in TEXTS)
    os.truncate(path, 2 * tokens - bytes_lost)
    left = (2 * tokens - bytes_lost) // 2
    sentence = rf"shard-00000\.tok has .* \({left:,} tokens{part}, not {tokens:,}\): copy the store"
    with pytest.raises(ValueError, match=sentence):
        Store(folder)


def test_dtype_mismatch_is_impossible(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    for change in ({"dtype": "<u4"}, {"dtype": "<i2"}, {"vocab_size": 1 << 17}):
        (folder / "manifest.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(ValueError, match="contradicts itself"):
            Store(folder)


def test_token_id_of_model_vocabulary_or_more_is_refused_at_start(folder: Path) -> None:
    store = Store(folder)
    shards = store.manifest.shards
    assert max(shard.max_id for shard in shards) < store.vocab_size
    run = compose(["model.vocab_size=200"])
    with pytest.raises(ValueError, match=r"model\.vocab_size=200 is smaller than the 257 tokens"):
        run.resolved(store.vocab_size)


def test_contents_rewritten_with_the_same_size(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", random_texts(3000, longest=600, seed=1))
    path = tmp_path / "store" / "shard-00000.tok"
    before = store.manifest.checksum
    data = bytearray(path.read_bytes())
    assert len(data) > 3 * 64 * 4096  # blocks of the sample do not cover it
    data[len(data) // 128] ^= 1  # between two blocks
    path.write_bytes(data)
    assert Store(tmp_path / "store").manifest.checksum == before  # the sample does not see it
    [problem] = problems_of(tmp_path / "store")
    assert "shard-00000.tok has changed since it was written" in problem
    path.write_bytes(bytes(reversed(data)))
    with pytest.raises(ValueError, match="has changed since it was written"):
        Store(tmp_path / "store")


def test_a_store_of_other_contents_is_another_plan(tmp_path: Path) -> None:
    hashes = [
        Plan.build(write_store(tmp_path / name, texts), CURRICULUM, seed=0, tokens_per_step=1024)
        for name, texts in (("a", TEXTS), ("b", [*TEXTS[:-1], TEXTS[-1][::-1]]))
    ]
    assert hashes[0].hash != hashes[1].hash


def test_tokenizer_changed(folder: Path) -> None:
    other = train_bpe(["another tokenizer"] * 3, vocab_size=257)
    (folder / "tokenizer.json").write_text(other.to_str())
    with pytest.raises(ValueError, match=r"tokenizer.json is not the tokenizer that wrote the sto"):
        open_store(DataConfig(source=str(folder)))


def test_read_only_corpus_folder(folder: Path) -> None:
    def listing() -> list[tuple[str, int, int]]:
        paths = [folder.parent, *sorted(folder.parent.rglob("*"))]
        return [(str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in paths]

    before = listing()
    folder.chmod(0o555)
    folder.parent.chmod(0o555)
    try:
        store = Store(folder, Selection(val_fraction=0.2))
        plan = Plan.build(store, CURRICULUM, seed=0, tokens_per_step=1024)
        with Loader(store, plan, stop=3) as loader:
            assert sum(1 for _ in loader) == 3
        batches = ValidationSet(store, CURRICULUM).batches(1024)
        assert sum(1 for _ in batches) > 0
        assert len(store.tokenizer().decode([104, 105])) == 2
        assert problems_of(folder) == []
        assert listing() == before  # root may write anyway, and did not
    finally:
        folder.parent.chmod(0o755)
        folder.chmod(0o755)


def test_boundaries_are_not_guessed_from_token_ids(tmp_path: Path) -> None:
    end = "<|endoftext|>"  # ordinary text, and its bytes are ordinary tokens
    store = write_store(tmp_path / "store", [f"one{end}two", "three"], val_fraction=0)
    assert np.diff(np.load(tmp_path / "store" / "shard-00000.off.npy")).tolist() == [20, 6]
    assert store.manifest.counts.documents == 2


def test_training_never_streams_from_a_hub() -> None:
    with pytest.raises(ValueError, match=r"data\.source=hf:name is no folder: prepare a store"):
        open_store(DataConfig(source="hf:name"))
