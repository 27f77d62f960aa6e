"""Engines: who holds parameters, gradients and optimizer state, and how sums cross processes.

The trainer speaks to one protocol and never asks which engine it has.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from lmtrain.parallel.collectives import Traffic
from lmtrain.parallel.mesh import Place, SequenceMesh
from lmtrain.parallel.strategy import Strategy
from lmtrain.parallelize import rematerialize, reshard, shard, share_rows
from lmtrain.planner import planner
from lmtrain.settings.engine import Device, EngineConfig, EngineKind, Precision
from lmtrain.train.invariants import check_finite, local, materialize
from lmtrain.train.tensors import (
    Snapshot,
    model_tensors,
    optimizer_tensors,
    read_tensors,
    start_optimizer,
)

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    from torch import Tensor

    from lmtrain.models.decoder import Decoder
    from lmtrain.parallel.config import ParallelConfig


class Engine(Protocol):
    """Holds a model while it trains."""

    rank: int
    world: int
    place: Place
    device: torch.device
    dtype: torch.dtype
    """Of activations."""

    def prepare(self, model: Decoder) -> None:
        """Take a model on the meta device: remat, shard, materialise with NaN."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a part of the global loss."""
        ...

    def step(self, optimizer: torch.optim.Optimizer, *, lr: float, clip: float | None) -> float:
        """Update the parameters at ``lr``, clear the gradients; the norm before clipping."""
        ...

    def discard(self, optimizer: torch.optim.Optimizer) -> None:
        """Forget the gradients instead of a step; parameters and optimizer stay as they are."""
        ...

    def total(self, values: Tensor) -> Tensor:
        """The sum of ``values`` over all processes, the same on each."""
        ...

    def sent(self) -> int:
        """Bytes that this process sent to those it shares rows with, since it was asked last."""
        ...

    def snapshot(self, model: Decoder, optimizer: torch.optim.Optimizer) -> Snapshot:
        """A copy of this process's shards of parameters and optimizer state; every one calls it."""
        ...

    def save(self, folder: Path, model: Decoder, optimizer: torch.optim.Optimizer) -> None:
        """Write parameters and optimizer state below ``folder``; every process calls it."""
        ...

    def load(self, folder: Path, model: Decoder, optimizer: torch.optim.Optimizer) -> None:
        """Fill both from what any number of processes saved; every process calls it."""
        ...

    def close(self) -> None:
        """Leave the other processes."""
        ...


class LocalEngine:
    """One process, no process group."""

    rank = 0
    world = 1
    place = Place()

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.device = choose_device(config.device)
        self.dtype = torch.bfloat16 if config.precision is Precision.bf16 else torch.float32

    def prepare(self, model: Decoder) -> None:
        """Remat and materialise."""
        rematerialize(model, self.config.remat)
        self._shard(model)
        materialize(model, self.device)
        if self.config.precision is Precision.bf16:
            model.compute_dtype = self.dtype

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a part of the global loss."""
        loss.backward()

    @torch.no_grad()
    def step(self, optimizer: torch.optim.Optimizer, *, lr: float, clip: float | None) -> float:
        """Update the parameters at ``lr``, clear the gradients; the norm before clipping.

        Raises:
            FloatingPointError: the gradients are not finite; the parameters are untouched.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        grads = [local(p.grad) for p in parameters if p.grad is not None]
        norms = torch._foreach_norm(grads, 2, torch.float64)  # pyright: ignore[reportPrivateImportUsage]
        norm = self.total(torch.stack(norms).square().sum()).sqrt().item()
        check_finite(norm)
        if clip is not None and norm > clip:
            torch._foreach_mul_(grads, clip / norm)  # pyright: ignore[reportPrivateImportUsage]
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def discard(self, optimizer: torch.optim.Optimizer) -> None:
        """Forget the gradients instead of a step."""
        optimizer.zero_grad(set_to_none=True)

    def total(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values

    def sent(self) -> int:
        """Nothing."""
        return 0

    def snapshot(self, model: Decoder, optimizer: torch.optim.Optimizer) -> Snapshot:
        """A copy of this process's shards of parameters and optimizer state."""
        parts = {"model": model_tensors(model), "optimizer": optimizer_tensors(model, optimizer)}
        return Snapshot.of(parts, rank=self.rank, world=self.world)

    def save(self, folder: Path, model: Decoder, optimizer: torch.optim.Optimizer) -> None:
        """Write parameters and optimizer state, each process its own shards."""
        self.snapshot(model, optimizer).write(folder)

    def load(self, folder: Path, model: Decoder, optimizer: torch.optim.Optimizer) -> None:
        """Fill both from what any number of processes saved.

        Raises:
            ValueError: the files are damaged or of another model.
        """
        start_optimizer(optimizer)
        read_tensors(folder / "model", model_tensors(model), world=self.world)
        read_tensors(folder / "optimizer", optimizer_tensors(model, optimizer), world=self.world)

    def close(self) -> None:
        """Nothing to leave."""

    def _shard(self, model: Decoder) -> None:
        """One process holds all."""


class FsdpEngine(LocalEngine):
    """FSDP2 over every process of the group: gloo on CPUs, nccl on GPUs."""

    def __init__(
        self, config: EngineConfig, parallel: ParallelConfig, *, timeout: timedelta | None
    ) -> None:
        super().__init__(config)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(self.device)
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timeout)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.place = Place.of(self.rank, self.world, parallel.sequence)
        self._parallel, self._traffic = parallel, Traffic()

    def sent(self) -> int:
        """What its traffic counted."""
        sent, self._traffic.sent = self._traffic.sent, 0
        return sent

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        dist.all_reduce(values)
        return values

    def snapshot(self, model: Decoder, optimizer: torch.optim.Optimizer) -> Snapshot:
        """A copy of this process's shards of parameters and optimizer state."""
        reshard(model)
        return super().snapshot(model, optimizer)

    def close(self) -> None:
        """Leave the process group."""
        dist.destroy_process_group()

    def _shard(self, model: Decoder) -> None:
        sequence = self._parallel.sequence
        if sequence > 1:
            choosers = planner(
                model.config,
                self._parallel,
                device=self.device.type,
                ranks_per_host=int(os.environ.get("LOCAL_WORLD_SIZE", self.world)),
                element=2 if self.config.precision is Precision.bf16 else 4,
            )
            strided = self._parallel.may_use(Strategy.usp, choosers)
            mesh = SequenceMesh.open(sequence, self.device, self._traffic, strided=strided)
            share_rows(model, choosers, mesh)
        shard(model, init_device_mesh(self.device.type, (self.world,)))


def open_engine(
    config: EngineConfig, parallel: ParallelConfig, *, world: int, timeout: timedelta | None = None
) -> LocalEngine:
    """The engine for ``world`` processes; with several, joins their group.

    ``timeout`` is how long a process waits for another one; None is torch's own.
    """
    engines = {EngineKind.fsdp: FsdpEngine}
    if world == 1:
        return LocalEngine(config)
    return engines[config.kind](config, parallel, timeout=timeout)


def choose_device(device: Device) -> torch.device:
    """CPU or CUDA."""
    if device is Device.auto:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device.value)
