"""A new run begins with the weights of a checkpoint, an imported one included."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from cases import weights
from runs import Run

from lmtrain.config import compose, read
from lmtrain.export.export import export
from lmtrain.export.importing import import_folder
from lmtrain.settings.export import ExportConfig, ImportConfig

if TYPE_CHECKING:
    from pathlib import Path

STILL = ("train.steps=1", "optim.lr=1e-30", "samples.count=0")


def test_a_run_begins_with_what_was_exported_and_imported(whole: Run, tmp_path: Path) -> None:
    folder, back = tmp_path / "folder", tmp_path / "back"
    export(ExportConfig(checkpoint=str(whole.folder), out=str(folder), verify=False))
    import_folder(ImportConfig(folder=str(folder), out=str(back)))
    run = Run(tmp_path / "run", whole.overrides[:-1])
    with pytest.raises(ValueError, match=r"has model\.vocab_size=320, this run 384"):
        run.train(*STILL, f"run.weights={back}", "model.vocab_size=384")
    with pytest.raises(ValueError, match=r"has model\.attention\.rope=True, this run False"):
        run.train(*STILL, f"run.weights={back}", "model.attention.rope=false")
    with pytest.raises(ValueError, match="holds no checkpoint"):
        run.train(*STILL, f"run.weights={folder}")
    assert run.train(*STILL, f"run.weights={back}") == 0
    trained = whole.weights(8)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in run.weights(1).items())
    assert run.train("train.steps=2", *STILL[1:], f"run.weights={back}") == 0, (
        "it goes on as itself"
    )


def test_an_import_brings_its_model_as_an_option(exported: dict[str, Path], tmp_path: Path) -> None:
    out = import_folder(
        ImportConfig(folder=str(exported["custom no MLP"]), out=str(tmp_path / "back"))
    )
    words = ["model=imported", f"hydra.searchpath=[file://{out / 'configs'}]"]
    assert compose(words).model == read(out / "config.yaml").model
    assert weights(compose(words).model).keys()
