"""Mistakes are one sentence with key, value and remedy, and nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lmtrain.config import PrepareConfig
from lmtrain.data.prepare import prepare

if TYPE_CHECKING:
    from runs import Run


def copied_store(run: Run, tmp_path: Path) -> Path:
    [source] = [o.removeprefix("data.source=") for o in run.overrides if "data.source=" in o]
    return Path(shutil.copytree(source, tmp_path / "store"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.pattern=GXA", r"model\.pattern.*'X'"),
        ("'model.pattern=\"(GA\"'", r"model\.pattern"),
        ("model.attention.heads=3", r"model\.attention.*heads.*3"),
        ("model.gated_deltanet.value_heads=0", r"model\.gated_deltanet.*0"),
        ("model.mamba2.head_dim=24", r"model\.mamba2\.head_dim.*24"),
        ("model.sliding_window.window=0", r"model\.sliding_window\.window.*0"),
        ("train.tokens_per_step=250", r"train\.tokens_per_step=250.*use 192 or 256"),
        ("model.vocab_size=100", r"model\.vocab_size=100 is smaller than the 257"),
        ("data.source=/nowhere/store", r"data\.source=/nowhere/store.*lmtrain prepare"),
        ("data.source=''", r"data\.source is empty"),
        ("data.val_fraction=1e-9", r"data\.val_fraction=1e-09.*raise it"),
        ("train.tokens_per_step=1048576", r"train\.tokens_per_step=1048576.*lower it"),
    ],
)
def test_a_configuration_that_cannot_work(override: str, words: str, run: Run) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        run.train(override.strip("'"))
    assert "problems" not in str(raised.value), "one mistake, one sentence"
    assert not run.folder.exists()


def test_a_truncated_store(run: Run, tmp_path: Path) -> None:
    store = copied_store(run, tmp_path)
    [shard] = store.glob("*.tok")
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"shard-00000\.tok"):
        run.train(f"data.source={store}")
    assert not run.folder.exists()


def test_a_changed_tokenizer(run: Run, tmp_path: Path) -> None:
    store = copied_store(run, tmp_path)
    tokenizer = store / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("endoftext", "end"))
    with pytest.raises(ValueError, match=r"tokenizer"):
        run.train(f"data.source={store}")
    assert not run.folder.exists()


def test_an_empty_corpus(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("\n")
    config = PrepareConfig(
        input=str(tmp_path / "texts"), out=str(tmp_path / "out"), tokenizer="bytes"
    )
    with pytest.raises(ValueError, match=str(tmp_path)):
        prepare(config)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_model(whole: Run) -> None:
    before = whole.files("**/*")
    with pytest.raises(ValueError, match=r"cannot continue: model\.n_layers was 4 and is 5"):
        whole.train("model.n_layers=5")
    assert whole.files("**/*") == before


def test_a_run_folder_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"run\.dir=.* cannot be a folder.*choose another"):
        run.train(f"run.dir={tmp_path}/file/run")
    assert (tmp_path / "file").read_text() == ""
