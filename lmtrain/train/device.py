"""The device that a run computes on: its peaks, and how a run on it begins."""

from __future__ import annotations

import resource
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import torch

from lmtrain import __version__
from lmtrain.machine import cpu
from lmtrain.models.accounting import ModelCost
from lmtrain.parallel.hardware import PEAK_FLOPS
from lmtrain.settings.engine import Precision
from lmtrain.train.report import StartReport

if TYPE_CHECKING:
    from lmtrain.config import RunConfig


def begun(config: RunConfig, device: torch.device, *, step: int, processes: int) -> StartReport:
    """The report of a run that begins after ``step`` updates."""
    return StartReport(
        step=step,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        parameters=ModelCost.of(config.model).total.parameters,
        processes=processes,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu(),
        version=__version__,
        torch=torch.__version__,
    )


def wait(device: torch.device) -> None:
    """Until the device has computed all that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_flops(device: torch.device, precision: Precision) -> float | None:
    """Dense FLOP/s of a device in bf16; None in fp32, and when it is not in the table."""
    if device.type != "cuda" or precision is not Precision.bf16:
        return None
    name = torch.cuda.get_device_name(device)
    fitting = [part for part in PEAK_FLOPS if part in name]
    return PEAK_FLOPS[max(fitting, key=len)] if fitting else None


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: on the GPU, or by the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
