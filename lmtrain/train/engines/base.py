"""What every engine does for the trainer, which never asks which one it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, overload

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from lmtrain.batch import Batch
    from lmtrain.compilation import Compiler
    from lmtrain.models.decoder import Decoder, Lesson, Result
    from lmtrain.ops.loss import LinearCrossEntropy
    from lmtrain.parallel.mesh import Place
    from lmtrain.train.tensors import Snapshot


class Engine(Protocol):
    """Holds a model while it trains.

    A birth is ``prepare``, `initialize` with ``write``, ``attach``; an update is, for each of
    ``parts``, ``forward`` and ``backward``, then ``step``. Gradients of all processes are summed,
    never averaged: the loss is a local sum over the targets of the whole global batch.
    """

    rank: int
    world: int
    copies: int
    """How many processes hold the same part of a parameter; DeepSpeed counts for itself."""
    place: Place
    device: torch.device
    dtype: torch.dtype
    """Of activations."""
    compiler: Compiler | None
    """Of the blocks, if they are compiled."""

    def prepare(self, model: Decoder, *, trains: bool = True) -> None:
        """Take a model on the meta device: bind strategies, remat, materialise with NaN.

        One that never ``trains`` (a teacher) needs no remat, and is not compiled.
        """
        ...

    def write(self, parameter: Tensor, values: Tensor) -> None:
        """Put the full ``values``, the same on every process, into what is held of a parameter."""
        ...

    def attach(
        self, model: Decoder, optimizer: torch.optim.Optimizer, *, partial: bool = False
    ) -> None:
        """Take an initialised model and its optimizer into use.

        With ``partial``, steps may leave parameters without a gradient, the same on all processes.
        """
        ...

    def parts(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        """Each part of a global batch; gradients need to be whole after the last one only."""
        ...

    @overload
    def forward(
        self, model: Decoder, batch: Batch, *, z_loss: float = 0.0
    ) -> LinearCrossEntropy: ...
    @overload
    def forward(self, model: Decoder, batch: Batch, *, lesson: Lesson[Result]) -> Result: ...
    def forward(self, model: Decoder, batch: Batch, **more: Any) -> Any:
        """The losses of a part, for a backward pass; or what a lesson makes of the model."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a part of the global loss."""
        ...

    def step(self, optimizer: torch.optim.Optimizer, *, lr: float, clip: float | None) -> float:
        """Update the parameters at ``lr``, clear the gradients; the norm before clipping.

        Raises:
            FloatingPointError: the gradients are not finite; the parameters are untouched.
        """
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
        """A copy of what this process writes of a checkpoint; every process calls it."""
        ...

    def load(self, folder: Path, model: Decoder, optimizer: torch.optim.Optimizer) -> None:
        """Fill both from what any number of processes saved; every process calls it.

        Raises:
            ValueError: the files are damaged or of another model.
        """
        ...

    def close(self) -> None:
        """Leave the other processes."""
        ...
