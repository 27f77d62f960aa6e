"""The record of a benchmark: results, and all that is needed to repeat and to judge them."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmtrain import __version__
from lmtrain.data.workers import usable_cores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmtrain.bench.config import BenchConfig

PACKAGES = (
    *("numpy", "torch", "triton", "transformers", "tokenizers", "datasets", "ai2-olmo-core"),
    *("fla-core", "flash-linear-attention", "flash-qla", "tilelang", "mamba-ssm", "causal-conv1d"),
)
"""Whose versions are recorded, as far as they are installed."""


def write_record(
    config: BenchConfig, results: Sequence[dict[str, Any]], notes: Sequence[str] = ()
) -> None:
    """Write everything to ``config.out``, if it is set."""
    if config.out:
        made = record(config, results, notes)
        Path(config.out).write_text(json.dumps(made, indent=1) + "\n")


def record(
    config: BenchConfig, results: Sequence[dict[str, Any]], notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Results with the command, the machine and the configuration that gave them."""
    return {
        "command": command(config),
        "machine": machine(config.device),
        "config": asdict(config),
        "results": list(results),
        "notes": list(notes),
    }


def command(config: BenchConfig) -> str:
    """What a person types in this folder to measure again."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    words = ["lmtrain", "bench"]
    if world > 1:
        hosts = [f"--nnodes={world // here}"] if world > here else []
        words = ["torchrun", *hosts, f"--nproc-per-node={here}", "-m", *words]
    typed = sys.orig_argv
    own = typed[typed.index("bench") + 1 :] if "bench" in typed else [f"what={config.what}"]
    return shlex.join([*words, *(word.replace(f"{Path.cwd()}/", "") for word in own)])


def machine(device: str = "cpu") -> dict[str, Any]:
    """Where it ran: processors, usable cores, and the versions of what took part."""
    return {
        **(_gpu() if device == "cuda" else {}),
        "cpu": _cpu(),
        "cores": usable_cores(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "lmtrain": __version__,
        **{name: found for name in PACKAGES if (found := _version(name))},
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


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    """The name that Linux gives it; elsewhere what Python knows."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
