"""A trained model, held by one process or by all, for scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lmtrain.config import RunConfig, read
from lmtrain.models.decoder import Decoder
from lmtrain.ops.backend import bind
from lmtrain.train.checkpoint import find
from lmtrain.train.engines import Engine
from lmtrain.train.tensors import model_tensors, read_tensors

if TYPE_CHECKING:
    from lmtrain.settings.evaluate import EvalConfig


@dataclass(frozen=True)
class Restored:
    """A model as its run left it."""

    model: Decoder
    engine: Engine
    run: RunConfig
    folder: Path
    """The checkpoint."""


def restore(config: EvalConfig, engine: Engine) -> Restored:
    """The model of a checkpoint, spread over the processes of ``engine``.

    Raises:
        ValueError: there is no checkpoint, or it is damaged, or cannot be computed so.
    """
    folder = find(Path(config.checkpoint or ""))
    run = read(folder / "config.yaml")
    with torch.device("meta"):
        model = Decoder(run.model)
    bind(model, config.ops, engine.device, engine.dtype)
    engine.prepare(model)
    read_tensors(folder / "model", model_tensors(model), world=engine.world)
    return Restored(model.eval(), engine, run, folder)
