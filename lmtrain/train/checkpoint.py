"""Checkpoints: folders of safetensors that appear whole or not at all.

    checkpoints/step_00000100/
      config.yaml          the resolved configuration
      tokenizer.json       of the data
      special_tokens.json  ids around the documents of the data
      state.json           step, the plan and those before it, what they used, format
      model/               safetensors, one file a process
      optimizer/           the same

Nothing is ever pickled.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from lmtrain import config as configuration
from lmtrain.data.manifest import Manifest
from lmtrain.data.replan import Past
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
    tokens: int = 0
    used: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    rest: dict[str, int] = field(default_factory=dict[str, int])
    """What was used of the data, for a plan that goes on from here; see `Past`."""
    past: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """The plans before this one, as JSON."""
    format: int = FORMAT

    @classmethod
    def of(cls, step: int, plan: Plan) -> State:
        """The state after ``step`` updates."""
        return cls(**vars(plan.until(step)), past=[asdict(each) for each in plan.past])

    @property
    def plans(self) -> list[Past]:
        """The plans before the last one."""
        return [Past.read(each) for each in self.past]

    @property
    def last(self) -> Past:
        """The last plan, as one that lies in the past.

        Raises:
            ValueError: the checkpoint does not say what was used.
        """
        if not self.used:
            raise ValueError(
                "its state does not say what was used of the data, as it was written by an earlier "
                "version: continue it unchanged to its next checkpoint first"
            )
        names = ("step", "plan", "identity", "tokens", "used", "rest")
        return Past.read({name: getattr(self, name) for name in names})


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
        if tokenizer.with_name("manifest.json").is_file():
            around = Manifest.read(tokenizer.parent).tokenizer.around
            (partial / "special_tokens.json").write_text(json.dumps(around) + "\n")
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
