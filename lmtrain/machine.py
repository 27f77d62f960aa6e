"""The machine: what it is, and what is installed."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lmtrain import __version__
from lmtrain.data.workers import usable_cores

PACKAGES = (
    *("numpy", "torch", "triton", "transformers", "tokenizers", "datasets", "ai2-olmo-core"),
    *("fla-core", "flash-linear-attention", "flash-qla", "tilelang", "mamba-ssm", "causal-conv1d"),
)
"""Whose versions are recorded, as far as they are installed."""


def machine(device: str = "cpu") -> dict[str, Any]:
    """Where it ran: processors, usable cores, and the versions of what took part."""
    return {
        **(_gpu() if device == "cuda" else {}),
        "cpu": cpu(),
        "cores": usable_cores(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "lmtrain": __version__,
        **{name: found for name in PACKAGES if (found := installed(name))},
    }


def _gpu() -> dict[str, Any]:
    """Name, capability and memory of the first GPU, and the CUDA that torch was built for."""
    import torch

    found = torch.cuda.get_device_properties(0)
    return {
        "gpu": found.name,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "gpu_memory": found.total_memory,
        "cuda": torch.version.cuda,
    }


def installed(package: str) -> str | None:
    """The version of a package; None where it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu() -> str:
    """The name that Linux gives it; elsewhere what Python knows."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
