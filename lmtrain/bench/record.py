"""The record of a benchmark: results, and all that is needed to repeat and to judge them."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmtrain.machine import machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmtrain.bench.config import BenchConfig


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
