"""The one place where parameters get their first values.

| parameter | drawn from |
|---|---|
| embedding, output head, projections into a block | normal, std ``init_std`` |
| projections back to the residual stream | the same, divided by sqrt(residual branches) |
| output head, projections, with a base width | the same, times `width_factors` |
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

from lmtrain.models.layers import RMSNorm
from lmtrain.models.mixers.gated_deltanet import GatedDeltaNet
from lmtrain.models.mixers.mamba2 import Mamba2
from lmtrain.models.width import width_factors

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor, nn

    from lmtrain.models.decoder import Decoder


@torch.no_grad()
def initialize(
    model: Decoder,
    *,
    seed: int,
    base_width: int | None = None,
    shape: Callable[[Tensor], torch.Size] = torch.Tensor.size,
    write: Callable[[Tensor, Tensor], object] = torch.Tensor.copy_,
) -> None:
    """Fill every parameter of ``model`` in place.

    Args:
        model: materialised, and possibly sharded.
        seed: of all draws.
        base_width: ``optim.base_width``.
        shape: of the whole parameter, of which a part may be here.
        write: puts the full values into a parameter, which may hold a part of them.
    """
    for name, parameter in model.named_parameters():
        values = draw(model, name, shape(parameter), seed=seed, base_width=base_width)
        write(parameter, values)


def draw(
    model: Decoder, name: str, shape: torch.Size, *, seed: int, base_width: int | None = None
) -> Tensor:
    """The first values of one parameter of ``model``, which may be on the meta device.

    Args:
        model: whose parameter it is.
        name: of the parameter.
        shape: of the whole parameter.
        seed: of all draws.
        base_width: ``optim.base_width``.
    """
    module = model.get_submodule(name.rpartition(".")[0])
    std = model.config.init_std * width_factors(model, name, base_width).std
    return _draw(model, module, name, shape, std, _generator(seed, name))


def _generator(seed: int, name: str) -> Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def _draw(
    model: Decoder,
    module: nn.Module,
    path: str,
    shape: torch.Size,
    std: float,
    generator: Generator,
) -> Tensor:
    """The values of one parameter: the table above."""
    values = torch.empty(shape)
    match module, path.rsplit(".", 1)[-1]:
        case RMSNorm(), _:
            values.fill_(0.0 if module.zero_centered else 1.0)
        case _, "D" | "norm_weight":
            values.fill_(1.0)
        case _, "conv_bias":
            values.zero_()
        case _, "conv_weight":
            values.uniform_(-1, 1, generator=generator).mul_(shape[0] ** -0.5)
        case _, "A_log":
            values.uniform_(1, 16, generator=generator).log_()
        case Mamba2() | GatedDeltaNet(), "dt_bias":
            low, high = math.log(module.config.dt_min), math.log(module.config.dt_max)
            dt = values.uniform_(low, high, generator=generator).exp_()
            values = dt + (-torch.expm1(-dt)).log()
        case _, "weight":
            back = path.endswith("out_proj.weight")
            scale = 1 / math.sqrt(model.residual_branches) if back else 1.0
            values.normal_(0.0, std * scale, generator=generator)
        case _:
            raise AssertionError(f"no rule initialises {path}")
    return values
