"""Folders of every target, and what transformers makes of them, asked in one fresh process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from asking import ask, job, stacks
from cases import checkpoint

from lmtrain.export.export import export
from lmtrain.settings.export import ExportConfig

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of every case, in files of 40 kB; its checkpoint lies beside it."""
    root, found = tmp_path_factory.mktemp("exported"), {}
    for name, (home, model) in stacks().items():
        here = root / name.replace(" ", "_")
        source = checkpoint(here / "checkpoint", model)
        config = ExportConfig(checkpoint=str(source), out=str(here / "folder"), target=home)
        config.verify, config.shard_size = False, "40KB"
        found[name] = export(config)
    return found


@pytest.fixture(scope="session")
def answers(
    exported: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What transformers makes of every case."""
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("answers")
    return ask({name: job(name, folder, root) for name, folder in exported.items()}, root)
