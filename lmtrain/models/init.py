"""The one place where parameters get their first values.

| parameter | drawn from |
|---|---|
| embedding, output head, projections into a block | normal, std ``init_std`` |
| projections back to the residual stream | the same, divided by sqrt(residual branches) |
| norm weights, ``D`` | 1 (0 where the norm is zero-centred) |
| short convolution weights; bias | uniform in ± taps^-1/2; 0 |
| ``A_log`` | log of uniform(1, 16) |
| ``dt_bias`` | inverse softplus of log-uniform(``dt_min``, ``dt_max``) |

Each parameter is drawn in full, on the host, from a generator keyed by the seed and its own name:
the same numbers for any sharding, any device, and any other parameter added or removed.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from lmtrain.models.layers import RMSNorm
from lmtrain.models.mixers.gated_deltanet import GatedDeltaNet
from lmtrain.models.mixers.mamba2 import Mamba2

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from lmtrain.models.decoder import Decoder


@torch.no_grad()
def initialize(model: Decoder, *, seed: int) -> None:
    """Fill every parameter of ``model``, materialised and possibly sharded, in place."""
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{path}.{name}"
            values = _draw(model, module, full, parameter, _generator(seed, full))
            if isinstance(parameter, DTensor):
                mesh, placements = parameter.device_mesh, parameter.placements
                values = distribute_tensor(
                    values.to(mesh.device_type), mesh, placements, src_data_rank=None
                )
            parameter.copy_(values)


def _generator(seed: int, name: str) -> Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def _draw(
    model: Decoder, module: nn.Module, path: str, parameter: Tensor, generator: Generator
) -> Tensor:
    """The values of one parameter: the table above."""
    std, shape, name = model.config.init_std, parameter.shape, path.rsplit(".", 1)[-1]
    match module, name:
        case RMSNorm(), _:
            return torch.full(shape, 0.0 if module.zero_centered else 1.0)
        case _, "D" | "norm_weight":
            return torch.ones(shape)
        case _, "conv_bias":
            return torch.zeros(shape)
        case _, "conv_weight":
            return (2 * torch.rand(shape, generator=generator) - 1) * shape[0] ** -0.5
        case _, "A_log":
            return torch.empty(shape).uniform_(1, 16, generator=generator).log()
        case Mamba2() | GatedDeltaNet(), "dt_bias":
            low, high = math.log(module.config.dt_min), math.log(module.config.dt_max)
            dt = torch.empty(shape).uniform_(low, high, generator=generator).exp()
            return dt + (-torch.expm1(-dt)).log()
        case _, "weight" if path.endswith("out_proj.weight"):
            std /= math.sqrt(model.residual_branches)
            return std * torch.randn(shape, generator=generator)
        case _, "weight":
            return std * torch.randn(shape, generator=generator)
    raise AssertionError(f"no rule initialises {path}")
