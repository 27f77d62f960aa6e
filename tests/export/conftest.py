"""Folders of every target, and what transformers makes of them, asked in one fresh process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from asking import QUICK, ask, job, stacks
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


class Answers(dict[str, dict[str, Any]]):
    """What transformers makes of a case; the quick ones are asked together, and the others."""

    def __init__(self, exported: dict[str, Path], root: Path) -> None:
        super().__init__()
        self.exported, self.root = exported, root

    def __missing__(self, name: str) -> dict[str, Any]:
        alike = {n: f for n, f in self.exported.items() if (n in QUICK) == (name in QUICK)}
        self.update(ask({n: job(n, folder, self.root) for n, folder in alike.items()}, self.root))
        return self[name]


@pytest.fixture(scope="session")
def answers(exported: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What transformers makes of every case."""
    pytest.importorskip("transformers")
    return Answers(exported, tmp_path_factory.mktemp("answers"))
