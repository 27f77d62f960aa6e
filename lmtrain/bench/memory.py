"""How much memory work needs."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

from lmtrain.bench.config import BenchDevice

if TYPE_CHECKING:
    from collections.abc import Callable


def memory_meter(device: BenchDevice) -> Callable[[], int]:
    """Bytes at the peak beyond those held now, as a function to call later."""
    if device is BenchDevice.cuda:
        import torch

        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        return lambda: torch.cuda.max_memory_allocated() - held
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before is no reserve
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    held = _status("VmRSS")
    return lambda: _status("VmHWM") - held


def _status(field: str) -> int:
    """Bytes that Linux reports of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
