"""What must hold of a model while it is born and trained."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import torch
from torch.distributed.tensor import DTensor

from lmtrain.data.fingerprint import row_fingerprint
from lmtrain.train.manifest import NAME, Manifest

if TYPE_CHECKING:
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


def check_checkpoint(engine: Engine, folder: Path) -> None:
    """See that every file of a checkpoint is as it was written; all processes share the work.

    Raises:
        ValueError: names the first file that is not, on every process.
    """
    manifest = Manifest.read(folder / NAME)
    names = sorted(manifest.files)
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
    mine = torch.tensor(row_fingerprint(plan[step]), device=engine.device)
    if engine.total(mine.clone()) != mine * engine.world:  # int64 wraps on both sides
        raise ValueError(
            f"process {engine.rank} would read another batch than the others at step {step}: give "
            "every machine the same token store (data.source) and the same version of lmtrain"
        )
