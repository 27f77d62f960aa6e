"""What is scored: a trained model, held by one process or by all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lmtrain.config import RunConfig
from lmtrain.models.decoder import Decoder
from lmtrain.ops.backend import bind
from lmtrain.train.engines import Engine
from lmtrain.train.tensors import model_tensors, read_tensors

if TYPE_CHECKING:
    from lmtrain.settings.evaluate import EvalConfig


@dataclass(frozen=True)
class Subject:
    """A model as its run left it, or is about to leave it."""

    model: Decoder
    engine: Engine
    run: RunConfig
    """Resolved."""
    folder: Path
    """The checkpoint with these weights."""


def restore(config: EvalConfig, run: RunConfig, folder: Path, engine: Engine) -> Subject:
    """The model of a checkpoint, spread over the processes of ``engine``.

    Args:
        config: what computes.
        run: of the checkpoint.
        folder: the checkpoint.
        engine: whose processes all call this.

    Raises:
        ValueError: it is damaged, or cannot be computed so.
    """
    with torch.device("meta"):
        model = Decoder(run.model)
    bind(model, config.ops, engine.device, engine.dtype)
    engine.prepare(model)
    read_tensors(folder / "model", model_tensors(model), world=engine.world)
    return Subject(model.eval(), engine, run, folder)
