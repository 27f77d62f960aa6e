"""Packages of the extras: absent or of another version, told before they are used."""

from __future__ import annotations

import importlib
import shutil
import sys
from importlib.metadata import PackageNotFoundError
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from lmtrain import extras
from lmtrain.bench.config import BenchConfig
from lmtrain.bench.step import bench
from lmtrain.evaluate.harness import ask
from lmtrain.export.verify import OUTSIDE, reload
from lmtrain.settings.evaluate import EvalConfig
from lmtrain.settings.harness import HarnessSection

if TYPE_CHECKING:
    from pathlib import Path


def installed(monkeypatch: pytest.MonkeyPatch, found: str | None) -> None:
    def version(package: str) -> str:
        if found is None:
            raise PackageNotFoundError(package)
        return found

    monkeypatch.setattr(extras, "version", version)


@pytest.mark.parametrize("found", ["5.20.0", "5.23.1", "5.30.0.dev0"])
def test_versions_that_work(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, found)
    extras.needed("transformers")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, r"transformers is not installed: pip install 'lmtrain\[hf\]', or say verify=false"),
        ("4.57.3", r"transformers 4\.57\.3 is installed, and 5\.20 or later is needed, below 6: "),
        ("5.4.0", r"transformers 5\.4\.0 is installed, and 5\.20"),
        ("6.0.0", r"transformers 6\.0\.0 is installed"),
    ],
)
def test_a_proof_names_the_version_that_it_found(
    found: str | None, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch

    installed(monkeypatch, found)
    with pytest.raises(ValueError, match=said):
        reload(tmp_path, torch.zeros(1), code=False)


def test_a_benchmark_and_the_harness_name_it_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed(monkeypatch, "4.57.3")
    with pytest.raises(ValueError, match=r"transformers 4\.57\.3 .*or say peers=false"):
        bench(BenchConfig(lengths=[64], peers=True))
    config = EvalConfig(checkpoint=str(tmp_path), harness=HarnessSection(tasks=["ruler_vt"]))
    with pytest.raises(ValueError, match=r"transformers 4\.57\.3 is installed"):
        ask(config)


@pytest.mark.parametrize("module", ["configuration_lmtrain", "modeling_lmtrain"])
def test_the_code_of_an_export_names_the_version_that_it_needs(
    module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stand-in for transformers 4: nothing of it but its version and one class is there."""
    old = ModuleType("transformers")
    old.__dict__.update(__version__="4.57.3", PretrainedConfig=object)
    monkeypatch.setitem(sys.modules, "transformers", old)
    package = tmp_path / f"folder_of_{module}"
    package.mkdir()
    for file in OUTSIDE.glob("*_lmtrain.py"):
        shutil.copy(file, package)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"transformers 4\.57\.3 .* needs 5\.0 or later: pip"):
        importlib.import_module(f"{package.name}.{module}")
