"""DeepSpeed: ZeRO shares optimizer state (1), also gradients (2), also parameters (3)."""

from __future__ import annotations

import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

import torch

from lmtrain.settings.engine import Offload
from lmtrain.train.engines.group import GroupEngine
from lmtrain.train.invariants import check_finite, materialize
from lmtrain.train.optim import set_learning_rate
from lmtrain.train.tensors import Snapshot, check_stored, fill, shape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import timedelta
    from pathlib import Path
    from types import ModuleType

    from torch import Tensor

    from lmtrain.batch import Batch
    from lmtrain.models.decoder import Decoder
    from lmtrain.parallel.config import ParallelConfig
    from lmtrain.settings.engine import EngineConfig

PARAMETERS = 3
"""The stage of ZeRO that shares parameters too."""

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW remembers of every element."""

BUCKET = 5 * 10**7
"""Elements that cross processes together, and lie in a buffer until then; DeepSpeed's own number
would hold 2 GB for any model."""

PORTION = 2**28
"""Elements that are read from a checkpoint at a time: ZeRO cuts them only when they are whole."""


class DeepSpeedEngine(GroupEngine):
    """DeepSpeed's ZeRO around our model and torch's optimizer, in fp32.

    DeepSpeed averages gradients over processes, so that every loss is multiplied by their number.
    Whether it clips, and what an infinite gradient does, is as with the other engines: ZeRO skips
    an update whose norm is not finite, and says so by the norm.
    """

    def __init__(
        self, config: EngineConfig, parallel: ParallelConfig, *, timeout: timedelta | None = None
    ) -> None:
        super().__init__(config, parallel, timeout=timeout)
        self._package = _deepspeed(self.device.type)
        self._settings = _settings(config)

    def write(self, parameter: Tensor, values: Tensor) -> None:
        """Put the full ``values`` into what is held of a parameter."""
        if self.config.zero != PARAMETERS:
            super().write(parameter, values)
            return
        with self._package.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
            parameter.copy_(values)

    def attach(
        self,
        model: Decoder,
        optimizer: torch.optim.Optimizer,
        *,
        partial: bool = False,  # noqa: ARG002  refused by config
    ) -> None:
        """Give both to DeepSpeed; the parameters of ``optimizer`` become ZeRO's."""
        elements = sum(shape(parameter).numel() for parameter in model.parameters())
        self._settings["zero_optimization"] |= {
            "reduce_bucket_size": min(BUCKET, elements),
            "allgather_bucket_size": min(BUCKET, elements),
        }
        engine, *_ = self._package.initialize(
            model=model, optimizer=optimizer, config=self._settings
        )
        self._engine, self._zero = engine, engine.optimizer
        self._start(optimizer)

    def forward(
        self,
        model: Decoder,  # noqa: ARG002
        batch: Batch,
        **more: Any,
    ) -> Any:
        """The losses of a part."""
        return self._engine(batch.tokens, batch.layout, batch.targets, **more)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a part of the global loss."""
        self._engine.backward(loss * self.world, scale_wrt_gas=False)

    def step(self, optimizer: torch.optim.Optimizer, *, lr: float, clip: float | None) -> float:
        """Update the parameters at ``lr``, clear the gradients; the norm before clipping.

        Raises:
            FloatingPointError: the gradients are not finite; the parameters are untouched.
        """
        self._zero.clip_grad = clip or 0.0
        set_learning_rate(optimizer, lr)
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        check_finite(norm)
        return norm

    def snapshot(self, model: Decoder, optimizer: torch.optim.Optimizer) -> Snapshot:
        """A copy of some whole parameters and their optimizer state, the others have the rest."""
        parts = {"model": self._parameters(model), "optimizer": self._states(model, optimizer)}
        return Snapshot.of(parts, rank=self.rank, world=self.world)

    @torch.no_grad()
    def load(self, folder: Path, model: Decoder, optimizer: torch.optim.Optimizer) -> None:
        """Fill both from what any number of processes saved.

        Raises:
            ValueError: the files are damaged or of another model.
        """
        parameters = dict(model.named_parameters())
        shapes = {name: shape(parameter) for name, parameter in parameters.items()}
        for name, values in _whole(folder / "model", shapes):
            self.write(parameters[name], values.to(self.device))
        self._zero.refresh_fp32_params()
        states = {f"{key}.{name}": of for key in MOMENTS for name, of in shapes.items()}
        steps = {f"step.{name}": () for name in shapes}
        for name, values in _whole(folder / "optimizer", states | steps):
            key, name = name.split(".", 1)  # noqa: PLW2901
            if key in MOMENTS:
                self._utils.safe_set_full_optimizer_state(
                    parameters[name], values.to(self.device), key
                )
            else:
                for state in optimizer.state.values():
                    state["step"].copy_(values)  # the same for all

    def discard(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing: ZeRO has no way to forget, so that a fault can only end the run (see config)."""

    def _hold(self, model: Decoder) -> None:
        """Stage 3 cuts part by part, so that no process ever holds a whole model."""
        if self.config.zero != PARAMETERS:
            materialize(model, self.device)
            return
        for part in (*model.blocks, *(m for n, m in model.named_children() if n != "blocks")):
            materialize(part, self.device)
            self._package.zero.Init(module=part, config_dict_or_path=self._settings)

    def _start(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the optimizer's state as its first step would.

        DeepSpeed 0.19 looks for it after the first step of the first parameter group, and never
        finds that of the others.
        """
        for master in self._masters:
            optimizer.state[master] = {
                "step": torch.zeros((), device=master.device),
                **{key: torch.zeros_like(master) for key in MOMENTS},
            }
        if self.config.zero != PARAMETERS:
            self._zero._lazy_init_hp_params_optimizer_state()  # now it finds all of it

    @property
    def _masters(self) -> list[Tensor]:
        """The flat fp32 parameters that this process updates."""
        if self.config.zero == PARAMETERS:
            return self._zero.fp32_partitioned_groups_flat
        return self._zero.single_partition_of_fp32_groups

    @property
    def _utils(self) -> Any:
        return self._package.utils

    def _parameters(self, model: Decoder) -> Iterator[tuple[str, Tensor]]:
        """Every parameter, gathered one at a time."""
        for name, parameter in model.named_parameters():
            yield name, self._utils.safe_get_full_fp32_param(parameter)

    def _states(
        self, model: Decoder, optimizer: torch.optim.Optimizer
    ) -> Iterator[tuple[str, Tensor]]:
        """What AdamW remembers of every parameter, gathered one tensor at a time."""
        step = next(iter(optimizer.state.values()))["step"]
        for name, parameter in model.named_parameters():
            for key in MOMENTS:
                yield f"{key}.{name}", self._utils.safe_get_full_optimizer_state(parameter, key)
            yield f"step.{name}", step


def _deepspeed(device: str) -> ModuleType:
    """The package, told to compute where we do, and to say only what matters."""
    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # It calls collectives by names that torch 2.13 calls old.
    warnings.filterwarnings("ignore", r".*torch\.distributed\.\w+` is deprecated", FutureWarning)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if device == "cpu":  # gloo needs no kernel that would be compiled here
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _settings(config: EngineConfig) -> dict[str, Any]:
    """What DeepSpeed is told; all else is its default."""
    zero: dict[str, Any] = {"stage": config.zero}
    if config.offload is not Offload.none:
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.offload is Offload.parameters:
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,  # it counts samples; we do not
        "managed_gradient_accumulation": False,  # our step() ends an accumulation
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # torch's own AdamW
        "zero_force_ds_cpu_optimizer": False,
    }


def _whole(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors of a checkpoint, read a portion at a time.

    Raises:
        ValueError: the files are damaged or of another model.
    """
    check_stored(folder, shapes)
    portion: dict[str, Tensor] = {}
    for name, of in shapes.items():
        portion[name] = torch.empty(of)
        if sum(tensor.numel() for tensor in portion.values()) >= PORTION:
            yield from _read(folder, portion)
            portion = {}
    yield from _read(folder, portion)


def _read(folder: Path, portion: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    fill(folder, portion)
    yield from portion.items()
