"""The engine of one process, on which the others build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lmtrain.compilation import Compiler, compile_blocks
from lmtrain.parallel.mesh import Place
from lmtrain.parallelize import rematerialize, write
from lmtrain.settings.engine import Device, Precision
from lmtrain.train.invariants import check_finite, local, materialize
from lmtrain.train.optim import set_learning_rate
from lmtrain.train.tensors import (
    Snapshot,
    model_tensors,
    optimizer_tensors,
    read_tensors,
    start_optimizer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from lmtrain.batch import Batch
    from lmtrain.models.decoder import Decoder
    from lmtrain.settings.engine import EngineConfig


class LocalEngine:
    """One process, no process group."""

    rank = 0
    world = 1
    copies = 1
    place = Place()
    compiler: Compiler | None = None

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.device = choose_device(config.device)
        self.dtype = torch.bfloat16 if config.precision is Precision.bf16 else torch.float32

    def prepare(self, model: Decoder, *, trains: bool = True) -> None:
        """Bind strategies, remat, compile, materialise."""
        self._share_rows(model)
        config = self.config
        if trains:
            again = config.remat, config.remat_budget
            offload = config.offload_activations
            rematerialize(model, *again, element=config.element, offload=offload)
            self.compiler = compile_blocks(model) if config.compile else None
        self._hold(model)
        if config.precision is Precision.bf16:
            model.compute_dtype = self.dtype

    @torch.no_grad()
    def write(self, parameter: Tensor, values: Tensor) -> None:
        """Put the full ``values`` into what is held of a parameter."""
        write(parameter, values)

    def attach(
        self, model: Decoder, optimizer: torch.optim.Optimizer, *, partial: bool = False
    ) -> None:
        """Nothing more is needed."""

    def parts(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        """The parts themselves."""
        return iter(batches)

    def forward(self, model: Decoder, batch: Batch, **more: Any) -> Any:
        """The losses of a part, or what a lesson makes of the model."""
        return model(batch.tokens, batch.layout, batch.targets, **more)

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
        square = self.total(torch.stack(norms).square().sum()) / self.copies
        norm = square.sqrt().item()
        check_finite(norm)
        if clip is not None and norm > clip:
            torch._foreach_mul_(grads, clip / norm)  # pyright: ignore[reportPrivateImportUsage]
        set_learning_rate(optimizer, lr)
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
        return Snapshot.of(
            {part: tensors.items() for part, tensors in parts.items()},
            rank=self.rank,
            world=self.world,
        )

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

    def _share_rows(self, model: Decoder) -> None:
        """One process has its rows alone."""

    def _hold(self, model: Decoder) -> None:
        """Give the parameters, or the parts of them that are held here, their storage."""
        materialize(model, self.device)


def choose_device(device: Device) -> torch.device:
    """CPU or CUDA."""
    if device is Device.auto:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device.value)
