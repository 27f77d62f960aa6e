"""Who holds the model, in which precision, on which device."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EngineKind(StrEnum):
    """Who holds parameters, gradients and optimizer state when there are several processes."""

    fsdp = "fsdp"


class Precision(StrEnum):
    """Dtype of the activations; parameters and optimizer state are always fp32."""

    fp32 = "fp32"
    bf16 = "bf16"


class Remat(StrEnum):
    """What blocks keep for the backward pass; the rest of a block is computed a second time."""

    none = "none"
    """Everything that a gradient needs; nothing is computed twice."""
    selective = "selective"
    """The input of each block, the output of every matrix product (projections in and out of
    mixers and MLP), what attention returns (output and normaliser), what a recurrence returns
    (output, and what its backward pass keeps: states between chunks), and what came from other
    processes. Norms, gates, activations, rotations and short convolutions run twice."""
    full = "full"
    """The input of each block, ``[t, d_model]``, and what came from other processes (with the
    output and normaliser of attention over keys from elsewhere). All else runs twice; while the
    backward pass is in a block, everything that ``none`` keeps of this one block is there too."""
    budget = "budget"
    """Each block is ``none``, ``selective`` or ``full``, so that all of them together keep at most
    the share ``remat_budget`` of what ``none`` keeps, and compute as little twice as that allows:
    ``lmtrain.models.budget`` chooses, by the formulas of ``models.accounting``."""
    block = "full"
    """The name of ``full`` in configurations before 0.2; read, never written."""


class Device(StrEnum):
    """Where to compute; auto takes CUDA when there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass(kw_only=True)
class EngineConfig:
    """How the model is held and computed."""

    kind: EngineKind = EngineKind.fsdp
    """Used when there are several processes; one process needs none."""
    precision: Precision = Precision.fp32
    """Dtype of the activations."""
    remat: Remat = Remat.none
    """What blocks keep for the backward pass. none: everything; selective: outputs of matrix
    products, attention and recurrences; full: only the input of each block, the rest is computed
    twice; budget: as much as remat_budget allows."""
    remat_budget: float | None = None
    """Share of what remat=none keeps of all blocks, in (0, 1]; with remat=budget."""
    device: Device = Device.auto
    """Where to compute."""

    def check(self, processes: int = 1) -> list[str]:
        """Every problem of so many processes on this machine, a sentence each."""
        if self.device is Device.cpu:
            return []
        import torch

        found = torch.cuda.device_count()
        if not found and self.device is Device.cuda:
            return ["engine.device=cuda, but torch finds no CUDA device: say engine.device=auto"]
        if 0 < found < processes:
            return [f"launch.nproc={processes} is more than the {found} GPUs here: lower it"]
        return []

    def capability(self) -> int | None:
        """Compute capability of the card times ten; None where a CPU computes."""
        if self.device is Device.cpu:
            return None
        import torch

        if not torch.cuda.is_available():
            return None
        major, minor = torch.cuda.get_device_capability()
        return 10 * major + minor
