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
    with pytest.raises(ValueError, match=r"rope_scaling\.original_length=null: yarn needs"):
        run.train(*STILL, f"run.weights={back}", "model.attention.rope_scaling.kind=yarn")
    with pytest.raises(ValueError, match="holds no checkpoint"):
        run.train(*STILL, f"run.weights={folder}")
    assert run.train(*STILL, f"run.weights={back}") == 0
    trained = whole.weights(8)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in run.weights(1).items())
    assert run.train("train.steps=2", *STILL[1:], f"run.weights={back}") == 0, (
        "it goes on as itself"
    )


def test_a_trained_model_is_extended_to_longer_documents(
    whole: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """New frequencies, longer buckets, the same weights; the run goes on only as what it is."""
    length = compose(whole.overrides).curriculum.max_length
    longer = [
        "model.attention.rope_scaling.kind=yarn",
        "model.attention.rope_scaling.factor=2",
        f"model.attention.rope_scaling.original_length={length}",
        f"curriculum.max_length={2 * length}",
    ]
    run = Run(tmp_path / "run", [*whole.overrides[:-1], *longer])
    assert run.train(*STILL, f"run.weights={whole.folder}") == 0
    assert "rope_scaling.kind=yarn, trained so far with none" in capsys.readouterr().out
    trained = whole.weights(8)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in run.weights(1).items())
    back = Run(run.folder, [*run.overrides, "model.attention.rope_scaling.factor=4"])
    with pytest.raises(
        ValueError, match=r"factor was 2\.0 and is 4\.0: .*in run\.weights of a new"
    ):
        back.train("train.steps=2", *STILL[1:])
    again = Run(tmp_path / "again", whole.overrides[:-1])
    assert again.train(*STILL, f"run.weights={run.folder}") == 0
    assert "rope_scaling.kind=none, trained so far with yarn" in capsys.readouterr().out


def test_an_import_brings_its_model_as_an_option(exported: dict[str, Path], tmp_path: Path) -> None:
    out = import_folder(
        ImportConfig(folder=str(exported["custom no MLP"]), out=str(tmp_path / "back"))
    )
    words = ["model=imported", f"hydra.searchpath=[file://{out / 'configs'}]"]
    assert compose(words).model == read(out / "config.yaml").model
    assert weights(compose(words).model).keys()
