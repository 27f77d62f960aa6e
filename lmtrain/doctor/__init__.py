"""`lmtrain doctor`: what of this machine helps or hinders a training, on one page."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmtrain import __version__
from lmtrain.doctor.cards import devices, kernels, links
from lmtrain.doctor.findings import Findings, Problem
from lmtrain.doctor.host import disks, network, resources
from lmtrain.machine import installed

if TYPE_CHECKING:
    from lmtrain.config import RunConfig

PACKAGES = (
    *("torch", "triton", "flash-attn", "flash-attn-3", "fla-core", "flash-qla", "deepspeed"),
    *("transformers", "tokenizers", "datasets", "numpy"),
)


def doctor(config: RunConfig) -> int:
    """Examine this machine for a run, and print what is found.

    Returns:
        1 if something would stop a training, else 0.
    """
    found = examine(config)
    console = Console(highlight=False)
    console.print(_page(found))
    problems = sorted((p for part in found for p in part.problems), key=lambda p: not p.stops)
    for problem in problems:
        console.print(
            f"{'stops a run' if problem.stops else 'beware'}: {problem.sentence}", markup=False
        )
    if not problems:
        console.print("Nothing here stands in the way of a training.")
    return int(any(problem.stops for problem in problems))


def examine(config: RunConfig) -> list[Findings]:
    """Every part of the machine, and the configuration itself."""
    parts = [
        versions(),
        devices(config),
        links(config),
        kernels(config),
        resources(config),
        disks(config),
        network(),
    ]
    told = {problem.sentence for part in parts for problem in part.problems}
    world = max(config.launch.nproc, config.parallel.sequence)
    rest = Findings("configuration")
    rest.problems = [Problem(p, stops=True) for p in config.check(world) if p not in told]
    return [*parts, rest]


def versions() -> Findings:
    """Of what computes, and what it was built for."""
    found = Findings("versions")
    found.fact("lmtrain", f"{__version__}, Python {platform.python_version()}")
    there = [f"{name} {known}" for name in PACKAGES if (known := installed(name))]
    found.fact("packages", ", ".join(there))
    import torch

    found.fact("CUDA of torch", torch.version.cuda or "none: built for CPUs")
    if torch.cuda.is_available():
        from torch.cuda import nccl

        found.fact("NCCL", ".".join(map(str, nccl.version())))
    return found


def _page(found: list[Findings]) -> Table:
    table = Table(show_header=False)
    for part in found:
        for i, (name, value) in enumerate(part.facts):
            table.add_row(part.title if i == 0 else "", escape(name), escape(value))
        if part.facts:
            table.add_section()
    return table
