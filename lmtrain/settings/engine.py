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
    """What is computed again in the backward pass instead of being kept."""

    none = "none"
    block = "block"


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
    """block: keep only the input of each block, compute the rest twice."""
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
