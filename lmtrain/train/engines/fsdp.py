"""FSDP2: every process holds a part of every parameter, and whole blocks only while they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from lmtrain.models.layers import Linear
from lmtrain.parallelize import reshard
from lmtrain.settings.engine import Offload, Precision
from lmtrain.train.engines.group import GroupEngine
from lmtrain.train.invariants import materialize

if TYPE_CHECKING:
    from datetime import timedelta

    from torch import nn

    from lmtrain.models.decoder import Decoder
    from lmtrain.parallel.config import ParallelConfig
    from lmtrain.settings.engine import EngineConfig
    from lmtrain.train.tensors import Snapshot

IN_BF16 = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
"""Gathered in bf16; gradients are summed in fp32."""


class FsdpEngine(GroupEngine):
    """FSDP2 over all processes; with ``engine.replicas`` over neighbours, in so many copies (HSDP).

    The optimizer updates shards. With ``engine.offload=parameters`` those, their gradients and
    their optimizer state are in the host's memory, and blocks come to the GPU as they are needed.
    """

    def __init__(
        self, config: EngineConfig, parallel: ParallelConfig, *, timeout: timedelta | None = None
    ) -> None:
        super().__init__(config, parallel, timeout=timeout)
        self.copies = config.replicas

    def snapshot(self, model: Decoder, optimizer: torch.optim.Optimizer) -> Snapshot:
        """A copy of this process's shards of parameters and optimizer state."""
        reshard(model)
        return super().snapshot(model, optimizer)

    def _hold(self, model: Decoder) -> None:
        offloads = self.config.offload is Offload.parameters
        policy = CPUOffloadPolicy(pin_memory=self.device.type == "cuda")
        held = shard(
            model,
            self._mesh(),
            offload=policy if offloads else OffloadPolicy(),
            gather=self.config.gather,
        )
        prefetch(held, self.config.prefetch)
        materialize(model, torch.device("cpu") if offloads else self.device)

    def _mesh(self) -> DeviceMesh:
        """Neighbours share parameters, so that the gathering of blocks stays within a machine."""
        kind, replicas = self.device.type, self.config.replicas
        if replicas == 1:
            return init_device_mesh(kind, (self.world,))
        ranks = torch.arange(self.world).view(replicas, -1)
        groups = [self._among(each.tolist()) for each in (ranks.t(), ranks)]
        names = ("replica", "shard")
        return DeviceMesh.from_group(groups, kind, mesh=ranks, mesh_dim_names=names)

    def _among(self, ranks: list[list[int]]) -> dist.ProcessGroup:
        """The group of this rank, of those that split the world; as patient as the run."""
        mine, _ = dist.new_subgroups_by_enumeration(ranks, timeout=self._timeout)
        assert isinstance(mine, dist.ProcessGroup)
        return mine


def shard(
    model: Decoder, mesh: DeviceMesh, *, offload: OffloadPolicy, gather: Precision
) -> list[list[FSDPModule]]:
    """Cut every parameter over the processes of ``mesh``, block by block.

    Gradients are summed, never averaged: the loss is already divided by the targets of the whole
    global batch. Gathered in bf16, projections are a group of their own in each block: they compute
    in bf16 anyway, and get the same bits whether the cast is before the gathering or after it.
    Their gradients are summed in fp32 then too.

    Returns:
        For each block what is gathered together, in the order of use.
    """
    held: list[list[FSDPModule]] = []
    for block in model.blocks:
        parts: list[nn.Module] = [block]
        if gather is Precision.bf16:
            linear: list[nn.Module] = [
                module for module in block.modules() if isinstance(module, Linear)
            ]
            fully_shard(linear, mesh=mesh, offload_policy=offload, mp_policy=IN_BF16)
            parts.append(linear[0])
        fully_shard(block, mesh=mesh, offload_policy=offload)
        held.append([part for part in parts if isinstance(part, FSDPModule)])
    fully_shard(model, mesh=mesh, offload_policy=offload)
    for module in (*model.blocks, model):
        register_fsdp_forward_method(module, "extend")  # gathers as forward does
    for block in model.blocks:
        register_fsdp_forward_method(block, "mix")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return held


def prefetch(held: list[list[FSDPModule]], ahead: int) -> None:
    """Gather the next ``ahead`` blocks while one runs, forward and backward.

    With 0, FSDP2 decides: backward it gathers one ahead; forward, a GPU does, as far as the host
    is ahead of it.
    """
    forward = held, FSDPModule.set_modules_to_forward_prefetch
    backward = held[::-1], FSDPModule.set_modules_to_backward_prefetch
    for order, gather_with in (forward, backward):
        for at, [block, *own] in enumerate(order if ahead else []):
            following = [each for parts in order[at + 1 : at + 1 + ahead] for each in parts]
            gather_with(block, [*own, *following])
