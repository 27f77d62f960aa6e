"""The shipped sizes of models, by the name that benchmarks take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmtrain.config import config_dir, read
from lmtrain.models.config import ModelConfig

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.bench.config import BenchConfig


def size_problems(bench: BenchConfig) -> list[str]:
    """A sentence if ``bench.size`` is none of them."""
    sizes = sorted(path.stem for path in _folder().glob("*.yaml"))
    if bench.size in sizes:
        return []
    return [f"size={bench.size} is unknown: choose one of {', '.join(sizes)}"]


def of_size(bench: BenchConfig) -> ModelConfig:
    """The model of ``bench.size``."""
    return read(_folder() / f"{bench.size}.yaml", ModelConfig)


def _folder() -> Path:
    return config_dir() / "model" / "size"
