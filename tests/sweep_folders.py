"""Folders as sweeps leave them, without a training."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lmtrain.config import compose, to_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def leave_sweep(
    folder: Path, keys: Sequence[str], overrides: Sequence[str] = (), experiment: str | None = None
) -> Path:
    """A sweep folder without points."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"name": folder.name, "keys": [*keys], "overrides": [*overrides]}
    (folder / "sweep.yaml").write_text(json.dumps({**told, "experiment": experiment}))
    return folder


def leave_point(
    sweep: Path,
    keys: Mapping[str, Any],
    *,
    losses: Sequence[float] = (4.0, 3.0, 2.0),
    scores: Sequence[Mapping[str, Any]] = (),
    error: str | None = None,
    speed: float = 1000.0,
) -> Path:
    """A run with a step and a validation for every loss; 1,024 tokens a step."""
    folder = sweep / ",".join(f"{key}={value}" for key, value in keys.items() if key != "findings")
    folder.mkdir(parents=True)
    config = _small().copy()
    for key, value in keys.items():
        OmegaConf.update(config, key, value, force_add=True)
    OmegaConf.save(config, folder / "config.yaml")
    lines: list[dict[str, Any]] = []
    for step, loss in enumerate(losses, 1):
        spent = {"tokens": 1024 * step, "length": 64, "tokens_per_second": speed, "lr": 1e-3}
        lines.append({"step": step, "loss": loss + 0.1, **spent, "grad_norm": 1.0, "memory": 2**30})
        lines.append({"step": step, "val_loss": loss, "val_bits_per_byte": loss / 2})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if scores:
        (folder / "scores.json").write_text(json.dumps({"scores": [*scores]}))
    if error is not None:
        (folder / "error.txt").write_text(error)
    else:
        (folder / "done").touch()
    return folder


def task_scores(by_length: Mapping[int, float], task: str = "mqar") -> list[dict[str, Any]]:
    """Scores on a task, half of the rows as right as the answers."""
    return [
        {"what": "task", "task": task, "length": n, "answers": a, "rows": a / 2, "by_group": {}}
        for n, a in by_length.items()
    ]


@cache
def _small() -> DictConfig:
    """The configuration of a small model whose cost is known."""
    words = ["model=debug", "model.vocab_size=64", "train.tokens_per_step=1024"]
    lengths = ["curriculum.min_length=16", "curriculum.max_length=64"]
    return DictConfig(OmegaConf.create(to_yaml(compose([*words, *lengths]))))
