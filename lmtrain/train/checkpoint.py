"""Checkpoints: folders of safetensors that appear whole or not at all.

    checkpoints/step_00000100/
      config.yaml      the resolved configuration
      tokenizer.json   of the data
      state.json       step, hash of the plan, format
      model/           safetensors, one file a process
      optimizer/       the same

Nothing is ever pickled.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from lmtrain import config as configuration
from lmtrain.data.writer import sync

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.data.plan import Plan
    from lmtrain.models.decoder import Decoder
    from lmtrain.train.engine import Engine

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a run stands: enough to continue it exactly, with the tensors."""

    step: int
    plan: str
    """Hash of the plan that the data came from."""
    identity: dict[str, Any]
    """What that plan was made of, by key."""
    format: int = FORMAT

    @classmethod
    def of(cls, step: int, plan: Plan) -> State:
        """The state after ``step`` updates."""
        return cls(step=step, plan=plan.hash, identity=plan.identity)


def save(
    root: Path,
    state: State,
    *,
    engine: Engine,
    config: configuration.RunConfig,
    tokenizer: Path,
    model: Decoder,
    optimizer: torch.optim.Optimizer,
) -> Path:
    """Write ``root/step_…`` and return it; every process must call this.

    A process that dies at any moment leaves either the whole folder or none of that name.
    """
    folder, partial = root / f"step_{state.step:08d}", root / f"step_{state.step:08d}.partial"
    if folder.exists():
        return folder
    if engine.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / "config.yaml").write_text(configuration.to_yaml(config))
        shutil.copyfile(tokenizer, partial / "tokenizer.json")
        (partial / "state.json").write_text(json.dumps(asdict(state)) + "\n")
    barrier(engine)
    engine.save(partial, model, optimizer)
    barrier(engine)
    if engine.rank == 0:
        for path in (*partial.rglob("*"), partial):
            sync(path)
        partial.rename(folder)
        sync(root)
    barrier(engine)
    return folder


def read_state(folder: Path) -> State:
    """Where the run of a checkpoint stood.

    Raises:
        ValueError: not a checkpoint, or one of another format.
    """
    try:
        state = State(**json.loads((folder / "state.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{folder} is not a checkpoint: {error}") from error
    if state.format != FORMAT:
        raise ValueError(f"{folder} has format {state.format}, this version reads {FORMAT}")
    return state


def latest(root: Path) -> Path | None:
    """The newest whole checkpoint below ``root``."""
    return max(_all(root), default=None)


def find(path: Path) -> Path:
    """The checkpoint that a path means: a run folder's latest, or the folder itself.

    Raises:
        ValueError: there is none.
    """
    if (path / "state.json").is_file():
        return path
    found = latest(path / "checkpoints")
    if found is None:
        raise ValueError(
            f"checkpoint={path} holds no checkpoint: give a run folder or a step folder"
        )
    return found


def retain(root: Path, keep: int | None) -> None:
    """Keep the newest ``keep`` checkpoints; remove older ones and what was left half-written."""
    for old in sorted(_all(root))[:-keep] if keep else []:
        old.rename(old.with_name(f"{old.name}.partial"))
    for partial in root.glob("step_*.partial"):
        shutil.rmtree(partial)


def barrier(engine: Engine) -> None:
    """Wait until every process is here."""
    engine.total(torch.zeros((), device=engine.device)).item()


def _all(root: Path) -> list[Path]:
    return [p for p in root.glob("step_*") if p.suffix != ".partial"]
