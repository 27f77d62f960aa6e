"""The record of a benchmark: results, and all that is needed to repeat and to judge them."""

from __future__ import annotations

import json
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

PACKAGES = ("numpy", "torch", "tokenizers", "datasets", "ai2-olmo-core")


def write_record(
    config: BenchConfig, results: Sequence[dict[str, Any]], notes: Sequence[str]
) -> None:
    """Write everything to ``config.out``, if it is set."""
    if not config.out:
        return
    record = {
        "command": shlex.join(sys.orig_argv),
        "machine": machine(),
        "config": asdict(config),
        "results": list(results),
        "notes": list(notes),
    }
    Path(config.out).write_text(json.dumps(record, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Where it ran: processor, usable cores, and the versions of what took part."""
    return {
        "cpu": _cpu(),
        "cores": usable_cores(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "lmtrain": __version__,
        **{name: found for name in PACKAGES if (found := _version(name))},
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
