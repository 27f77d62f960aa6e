"""The optimizer, and which parameters decay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lmtrain.train.tensors import shape

if TYPE_CHECKING:
    from torch import nn

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


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """AdamW over what decays and what does not."""
    groups = [
        {
            "params": [p for n, p in model.named_parameters() if DECAYS[kind(n, p)] is decays],
            "weight_decay": optim.weight_decay if decays else 0.0,
        }
        for decays in (True, False)
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=optim.lr,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        fused=True,  # five times the speed of the loop on a CPU too
    )
