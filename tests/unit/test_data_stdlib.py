from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from lmtrain.data import stdlib
from lmtrain.data.config import DataConfig
from lmtrain.data.store import Side, open_store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Pretend that the library is its json package, and a file that is not UTF-8."""
    files = [path for path in stdlib.stdlib_files() if path.parent.name in ("json", "bad_coding")]
    monkeypatch.setattr(stdlib, "stdlib_files", lambda: files)
    monkeypatch.setattr(stdlib, "TRAINING_SHARE", 1.0)
    return files


def test_the_library_is_found_in_order_and_without_other_packages() -> None:
    files = stdlib.stdlib_files()
    assert files == sorted(files)
    assert {"json/__init__.py", "asyncio/tasks.py"} <= {"/".join(p.parts[-2:]) for p in files}
    assert not any("site-packages" in path.parts for path in files)


def test_it_becomes_a_store_at_first_use(few: list[Path], tmp_path: Path) -> None:
    config = DataConfig(vocab_size=400, val_fraction=0, cache=str(tmp_path))
    store = open_store(config)
    assert store.vocab_size == 400
    tokenizer, train = store.tokenizer(), store.documents(Side.train)
    texts = [
        tokenizer.decode(store.read(np.array([start]), int(length))[0][:-1].tolist())
        for start, length in zip(*train, strict=True)
    ]
    assert texts == [text for text in stdlib.stdlib_texts() if text.strip()]
    written = (store.folder / "manifest.json").stat().st_mtime_ns
    assert (open_store(config).folder / "manifest.json").stat().st_mtime_ns == written
    assert [path.name for path in tmp_path.iterdir()] == [store.folder.name]


def test_two_at_once_make_it_once(
    few: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def slow(folder: Path, *, vocab_size: int) -> None:
        made.append(folder)
        time.sleep(0.3)
        write_stdlib(folder, vocab_size=vocab_size)

    write_stdlib = stdlib.write_stdlib
    monkeypatch.setattr(stdlib, "write_stdlib", slow)
    config = DataConfig(vocab_size=300, cache=str(tmp_path))
    with ThreadPoolExecutor(3) as pool:
        stores = list(pool.map(open_store, [config] * 3))
    assert len(made) == 1
    assert {store.folder for store in stores} == set(made)


def test_another_vocabulary_is_another_store(few: list[Path], tmp_path: Path) -> None:
    folders = {
        open_store(DataConfig(vocab_size=size, cache=str(tmp_path))).folder for size in (300, 310)
    }
    assert len(folders) == 2


def test_files_that_do_not_decode_are_skipped(few: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_bytes(b"# \xff")
    few.append(bad)
    assert len(list(stdlib.stdlib_texts())) == len(few) - 1


def test_a_damaged_store_says_how_to_make_it_anew(few: list[Path], tmp_path: Path) -> None:
    config = DataConfig(vocab_size=300, cache=str(tmp_path))
    folder = open_store(config).folder
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=f"it is made anew when you delete {folder}"):
        open_store(config)


def test_a_cache_that_cannot_be_written_is_a_sentence(few: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"data.cache=.*file cannot be written .*data.cache=PATH"):
        open_store(DataConfig(cache=str(tmp_path / "file")))
