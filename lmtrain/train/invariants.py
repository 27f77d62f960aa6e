"""What must hold of a model while it is born and trained."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from lmtrain.data.fingerprint import fingerprint, row_fingerprint
from lmtrain.train.manifest import NAME, Manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from lmtrain.data.plan import Plan
    from lmtrain.train.engines import Engine


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    if isinstance(tensor, DTensor):
        return tensor.to_local()
    return getattr(tensor, "ds_tensor", tensor)  # what ZeRO keeps of a parameter


@torch.no_grad()
def materialize(model: nn.Module, device: torch.device) -> None:
    """Give a model on the meta device its storage, full of NaN."""
    model.to_empty(device=device)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            local(tensor).fill_(torch.nan)


def check_initialized(model: nn.Module) -> None:
    """Assert that no parameter or buffer was left as `materialize` made it."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    missed = [name for name, tensor in named.items() if bool(local(tensor.detach()).isnan().any())]
    assert not missed, f"never initialised: {', '.join(missed)}"


def check_finite(grad_norm: float) -> None:
    """Stop before a broken gradient reaches the weights.

    Raises:
        FloatingPointError: the norm is infinite or not a number.
    """
    if not isfinite(grad_norm):
        raise FloatingPointError(f"the gradient's norm is {grad_norm}")


def check_same_start(engine: Engine, checkpoints: Mapping[str, Path]) -> None:
    """See that all processes read the same checkpoints; every one of them calls this.

    Args:
        engine: over whose processes a run is spread.
        checkpoints: by the key that led this process there.

    Raises:
        ValueError: they do not.
    """
    seen = b"".join(key.encode() + (at / NAME).read_bytes() for key, at in checkpoints.items())
    if not _alike(engine, fingerprint(np.frombuffer(seen, np.uint8))):
        found = ", ".join(f"{key} leads to {folder}" for key, folder in checkpoints.items())
        raise ValueError(
            f"process {engine.rank} would begin with other checkpoints than the others "
            f"({found or 'none'} there): all machines need one file system for run.dir, and name "
            "step folders in run.weights and distill.teacher while their runs go on"
        )


def check_checkpoint(engine: Engine, folder: Path, part: str = "") -> None:
    """See that files of a checkpoint are as they were written; all processes share the work.

    Args:
        engine: whose processes all call this.
        folder: the checkpoint.
        part: how the names of the files begin that are read; all of them by default.

    Raises:
        ValueError: names the first file that is not, on every process.
    """
    manifest = Manifest.read(folder / NAME)
    names = sorted(name for name in manifest.files if name.startswith(part))
    found = manifest.check_contents(folder, names[engine.rank :: engine.world])
    damaged = torch.tensor([name in found for name in names], device=engine.device).long()
    for name, count in zip(names, engine.total(damaged).tolist(), strict=True):
        if count:
            raise ValueError(f"{folder / name} does not have the contents that were written")


def check_same_batch(engine: Engine, plan: Plan, step: int) -> None:
    """See that all processes would read the same global batch; every one of them calls this.

    Raises:
        ValueError: they would not.
    """
    if not _alike(engine, row_fingerprint(plan[step])):
        raise ValueError(
            f"process {engine.rank} would read another batch than the others at step {step}: give "
            "every machine the same token store (data.source) and the same version of lmtrain"
        )


def _alike(engine: Engine, number: int) -> bool:
    """Whether this process has the same fingerprint as the others."""
    mine = torch.tensor(number, device=engine.device)
    return bool(engine.total(mine.clone()) == mine * engine.world)  # int64 wraps on both sides
