"""The optimizer, which parameters decay, and the learning rate of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lmtrain.models.layers import Linear
from lmtrain.models.width import width_factors
from lmtrain.settings.engine import Precision
from lmtrain.settings.optim import MuonScale, OptimKind
from lmtrain.train.muon import MuonAdamW
from lmtrain.train.tensors import shape

if TYPE_CHECKING:
    from lmtrain.models.decoder import Decoder
    from lmtrain.settings.optim import OptimConfig

DECAYS = {
    "embedding": False,  # rows of rare tokens would shrink without being read
    "vector": False,  # norms, biases, decay rates and skips: their size is their meaning
    "matrix": True,  # projections and convolutions
}
"""Whether weight decay applies to a kind of parameter."""


def kind(name: str, parameter: torch.Tensor) -> str:
    """The row of `DECAYS` that a parameter belongs to."""
    if name.startswith("embedding."):
        return "embedding"
    return "matrix" if len(shape(parameter)) > 1 else "vector"


def build_optimizer(model: Decoder, optim: OptimConfig) -> torch.optim.Optimizer:
    """AdamW; or Muon over projections, AdamW over the rest.

    A group of parameters shares ``weight_decay`` and ``lr_factor``, which `set_learning_rate`
    multiplies the learning rate by: not 1 only for a model that is not ``optim.base_width`` wide.
    """
    orthogonal = projections(model) if optim.kind is OptimKind.muon else set[str]()
    named = dict(model.named_parameters())
    adamw = torch.optim.AdamW(
        _groups(model, optim, [name for name in named if name not in orthogonal]),
        lr=optim.lr,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        fused=True,  # five times the speed of the loop on a CPU too
    )
    if not orthogonal:
        return adamw
    factor = muon_factor(model, optim)
    matrices = {
        "params": [named[name] for name in named if name in orthogonal],
        "lr": optim.lr,
        "lr_factor": factor,
        "weight_decay": optim.weight_decay / factor,
    }
    return MuonAdamW(
        matrices,
        adamw,
        momentum=optim.muon_momentum,
        scale=optim.muon_scale,
        dtype=torch.bfloat16 if optim.muon_precision is Precision.bf16 else torch.float32,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Let the next step of an optimizer of `build_optimizer` be taken at ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


def muon_factor(model: Decoder, optim: OptimConfig) -> float:
    """What Muon's learning rate is multiplied by at the width of ``model``.

    An update must have a spectral norm like sqrt(rows / columns) at any width (Yang et al. 2023,
    arXiv 2310.17813): ``original`` has, ``match_rms_adamw`` is sqrt(width) larger.
    """
    if optim.base_width is None or optim.muon_scale is MuonScale.original:
        return 1.0
    return (optim.base_width / model.config.d_model) ** 0.5


def _groups(model: Decoder, optim: OptimConfig, names: list[str]) -> list[dict[str, Any]]:
    """Parameters of AdamW that share weight decay and factor, those that decay first.

    AdamW shrinks weights by ``lr * weight_decay`` a step: where the width lowers the one it raises
    the other, so that weights forget at one pace at every width (arXiv 2405.13698).
    """
    groups: dict[tuple[bool, float], list[torch.nn.Parameter]] = {}
    for name in names:
        parameter = model.get_parameter(name)
        factor = width_factors(model, name, optim.base_width).rate
        groups.setdefault((DECAYS[kind(name, parameter)], factor), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr_factor": factor,
            "weight_decay": optim.weight_decay / factor if decays else 0.0,
        }
        for (decays, factor), parameters in sorted(groups.items(), reverse=True)
    ]


def projections(model: Decoder) -> set[str]:
    """Names of the weights of linear maps inside blocks."""
    return {
        f"blocks.{path}.weight"
        for path, module in model.blocks.named_modules()
        if isinstance(module, Linear)
    }
