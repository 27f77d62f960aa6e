"""Who holds the model, in which precision, on which device."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from os import environ
from shutil import which


class EngineKind(StrEnum):
    """Who holds parameters, gradients and optimizer state when there are several processes."""

    fsdp = "fsdp"
    """torch's FSDP2: each process holds a part of everything, block by block."""
    ddp = "ddp"
    """torch's DistributedDataParallel: each process holds everything."""
    deepspeed = "deepspeed"
    """DeepSpeed's ZeRO, stage engine.zero."""


class Offload(StrEnum):
    """What is in the host's memory instead of the GPU's."""

    none = "none"
    optimizer = "optimizer"
    """Optimizer state and fp32 gradients, where the update is computed (deepspeed)."""
    parameters = "parameters"
    """That, and the parameters while they are not computed with (fsdp; deepspeed, zero=3)."""


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
    `lmtrain.budget.choose` chooses, by formula."""
    block = "full"
    """The former name of ``full``; read, never written."""


class Device(StrEnum):
    """Where to compute; auto takes CUDA when there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass(kw_only=True)
class EngineConfig:
    """How the model is held and computed."""

    kind: EngineKind = EngineKind.fsdp
    """Used when there are several processes; one process needs none. fsdp: parameters, gradients
    and optimizer state are shared out; ddp: each process holds all; deepspeed: ZeRO by zero."""
    replicas: int = 1
    """Copies of the model that fsdp keeps (HSDP): processes / replicas neighbours share each."""
    prefetch: int = 1
    """Blocks that fsdp gathers ahead of the one that runs; 0 leaves it to FSDP2."""
    gather: Precision = Precision.fp32
    """Dtype in which fsdp gathers the projections of blocks. bf16 sends half as much and gives the
    same bits with precision=bf16, in which projections compute; not with compile."""
    zero: int | None = None
    """ZeRO's stage, for deepspeed alone. 1 shares optimizer state, 2 also gradients, 3 also
    parameters."""
    offload: Offload = Offload.none
    """What waits in the host's memory. optimizer: its state and update (deepspeed); parameters:
    these too (fsdp; deepspeed with zero=3)."""
    precision: Precision = Precision.fp32
    """Dtype of the activations."""
    remat: Remat = Remat.none
    """What blocks keep for the backward pass. none: everything; selective: outputs of matrix
    products, attention and recurrences; full: only the input of each block, the rest is computed
    twice; budget: as much as remat_budget allows."""
    remat_budget: float | None = None
    """Share of what remat=none keeps of all blocks, in (0, 1]; with remat=budget."""
    offload_activations: bool = False
    """With remat=full, let the inputs of blocks wait in the host's pinned memory: they travel in
    line with the kernels, and the host does not wait."""
    compile: bool = False
    """Let torch.compile fuse what lies between the kernels of a block: a few graphs, compiled in
    the first step, whatever lengths come later. Needs a C++ compiler; not for deepspeed."""
    device: Device = Device.auto
    """Where to compute."""

    def check(self, processes: int = 1, world: int = 1) -> list[str]:
        """Every problem, a sentence each.

        Args:
            processes: on this machine.
            world: on all machines.
        """
        absent = self._absent() if self.kind is EngineKind.deepspeed and world > 1 else []
        return [*self._device(processes), *self.holding(world), *absent, *self._compiler()]

    def holding(self, world: int) -> list[str]:
        """What an engine does not do with ``world`` processes, wherever they are."""
        kind, deep = self.kind, self.kind is EngineKind.deepspeed
        found = [
            f"engine.{key}={value} is of engine.kind={reader}, and this is {kind}: leave it out"
            for key, value, default, reader in (
                ("replicas", self.replicas, 1, EngineKind.fsdp),
                ("prefetch", self.prefetch, 1, EngineKind.fsdp),
                ("gather", self.gather, Precision.fp32, EngineKind.fsdp),
                ("zero", self.zero, None, EngineKind.deepspeed),
            )
            if value != default and kind is not reader
        ]
        if deep and self.zero not in (1, 2, 3):
            found.append(f"engine.zero={self.zero} is no stage of ZeRO: say 1, 2 or 3")
        if self.replicas < 1 or world % self.replicas:
            found.append(
                f"engine.replicas={self.replicas} must divide the {world} processes: each copy of "
                "the model is shared by equally many"
            )
        if self.gather is Precision.bf16 and self.precision is not Precision.bf16:
            found.append(
                f"engine.gather=bf16 would round what engine.precision={self.precision} computes "
                "with: say engine.precision=bf16, or engine.gather=fp32"
            )
        if self.gather is Precision.bf16 and self.compile:
            found.append(
                "engine.gather=bf16 does not go with engine.compile=true, as it hooks into what is "
                "compiled: say engine.gather=fp32, or engine.compile=false"
            )
        if self.offload_activations and self.remat is not Remat.full:
            found.append(
                "engine.offload_activations=true takes what engine.remat=full keeps, and this is "
                f"{self.remat}: say engine.remat=full, or leave it out"
            )
        if self.prefetch < 0:
            found.append(f"engine.prefetch={self.prefetch} must not be negative")
        return [*found, *self._offloading(world), *self._again()]

    def _again(self) -> list[str]:
        """What is wrong with how blocks are computed, and computed again."""
        found: list[str] = []
        budget, remat = self.remat_budget, self.remat
        if remat is Remat.budget and (budget is None or not 0 < budget <= 1):
            found.append(
                f"engine.remat_budget={'null' if budget is None else budget} must lie in (0, 1] "
                "with engine.remat=budget: say engine.remat_budget=0.5, or engine.remat=full"
            )
        if remat is not Remat.budget and budget is not None:
            found.append(
                f"engine.remat_budget={budget} is of engine.remat=budget, and this is {remat}: "
                "leave it out"
            )
        if not self.compile:
            return found
        if remat in (Remat.selective, Remat.budget):
            found.append(
                f"engine.remat={remat} does not go with engine.compile=true, whose graphs choose "
                "themselves what they keep: say engine.remat=none or full"
            )
        if self.kind is EngineKind.deepspeed:
            found.append(
                "engine.compile=true does not go with engine.kind=deepspeed, which hooks into what "
                "is compiled: say engine.kind=fsdp, or engine.compile=false"
            )
        return found

    def _compiler(self) -> list[str]:
        if not self.compile or any(map(which, (environ.get("CXX", "g++"), "clang++", "cl"))):
            return []
        return [
            "engine.compile=true needs a C++ compiler, and there is none on the PATH: install "
            "g++, or say engine.compile=false"
        ]

    def _offloading(self, world: int) -> list[str]:
        """Where what is offloaded cannot be."""
        offload, key = self.offload, f"engine.offload={self.offload}"
        if offload is Offload.none:
            return []
        if world == 1:
            return [f"{key} needs an engine of several processes: raise launch.nproc, or say none"]
        match self.kind:
            case EngineKind.fsdp if offload is Offload.optimizer:
                return [f"{key} is not what fsdp can do: say parameters, or engine.kind=deepspeed"]
            case EngineKind.ddp:
                return [f"{key} is not what ddp can do: say engine.kind=fsdp or deepspeed"]
            case EngineKind.deepspeed if offload is Offload.parameters and self.zero != 3:  # noqa: PLR2004
                return [f"{key} needs engine.zero=3, and it is {self.zero}: say optimizer, or 3"]
            case _:
                return []

    @staticmethod
    def _absent() -> list[str]:
        if find_spec("deepspeed"):
            return []
        return [
            "engine.kind=deepspeed, but deepspeed is not installed: "
            "pip install 'lmtrain[deepspeed]', or say engine.kind=fsdp"
        ]

    def _device(self, processes: int) -> list[str]:
        """Whether the device is there, for so many processes."""
        if self.offload_activations and self.capability() is None:
            return [
                "engine.offload_activations=true needs a GPU, as a CPU has no memory but the "
                "host's: leave it out"
            ]
        if self.device is Device.cpu:
            return []
        import torch

        found = torch.cuda.device_count()
        if not found and self.device is Device.cuda:
            return ["engine.device=cuda, but torch finds no CUDA device: say engine.device=auto"]
        if 0 < found < processes:
            return [f"launch.nproc={processes} is more than the {found} GPUs here: lower it"]
        return []

    @property
    def element(self) -> int:
        """Bytes of an activation."""
        return 2 if self.precision is Precision.bf16 else 4

    def capability(self) -> int | None:
        """Compute capability of the card times ten; None where a CPU computes."""
        if self.device is Device.cpu:
            return None
        import torch

        if not torch.cuda.is_available():
            return None
        major, minor = torch.cuda.get_device_capability()
        return 10 * major + minor
