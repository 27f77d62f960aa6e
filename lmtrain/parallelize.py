"""From a model on the meta device to one spread over processes: remat, then shard.

The model asks for none of this: it is done to it from outside, before its parameters have storage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lmtrain.config import Remat

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh

    from lmtrain.models.decoder import Decoder


def rematerialize(model: Decoder, remat: Remat) -> None:
    """Keep only the input of each block, and compute the rest again in the backward pass."""
    for block in model.blocks:
        block.remat = remat is Remat.block  # type: ignore[assignment]


def shard(model: Decoder, mesh: DeviceMesh) -> None:
    """Cut every parameter over the processes of ``mesh``, block by block (FSDP2).

    Gradients are summed, never averaged: the loss is already divided by the targets of the whole
    global batch.
    """
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def write(parameter: Tensor, values: Tensor) -> None:
    """Put the full ``values``, the same on every process, into a parameter, sharded or not."""
    if isinstance(parameter, DTensor):
        mesh, placements = parameter.device_mesh, parameter.placements
        on_device = values.to(mesh.device_type)
        values = distribute_tensor(on_device, mesh, placements, src_data_rank=None)
    parameter.copy_(values)
