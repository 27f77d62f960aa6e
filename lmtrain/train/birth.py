"""How a model is born: described, cut, materialised, filled, checked, and given its optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lmtrain.models.decoder import Decoder
from lmtrain.models.init import initialize
from lmtrain.ops.backend import bind
from lmtrain.train.invariants import check_initialized
from lmtrain.train.optim import build_optimizer
from lmtrain.train.start import copy_weights
from lmtrain.train.tensors import shape, start_optimizer

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.config import RunConfig
    from lmtrain.train.engines import Engine


def birth(
    config: RunConfig, engine: Engine, weights: Path | None = None
) -> tuple[Decoder, torch.optim.Optimizer]:
    """The initialised model, spread as the engine holds it, and its optimizer.

    Its first values are drawn, or those of the checkpoint ``weights``.
    """
    with torch.device("meta"):
        model = Decoder(config.model)
    bind(model, config.ops, engine.device, engine.dtype)
    engine.prepare(model)  # bind strategies, remat, shard, materialise full of NaN
    if weights is None:
        seed, base_width = config.run.seed, config.optim.base_width
        initialize(model, seed=seed, base_width=base_width, shape=shape, write=engine.write)
    else:
        copy_weights(model, weights, write=engine.write)
    check_initialized(model)
    optimizer = build_optimizer(model, config.optim)
    engine.attach(model, optimizer, partial=config.distill.layers_steps > 0)
    if config.distill.layers_steps:
        start_optimizer(optimizer)  # a checkpoint has its state, also of what does not learn yet
    return model, optimizer
