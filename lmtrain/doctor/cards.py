"""GPUs, the links between them, and which kernels will compute."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from lmtrain.doctor.findings import Findings

if TYPE_CHECKING:
    from lmtrain.config import RunConfig

QUERY = (
    *("name", "memory.total", "memory.used", "compute_cap", "ecc.mode.current"),
    *("ecc.errors.uncorrected.volatile.total", "driver_version"),
)
SECONDS = 3
"""What a tool of the driver may take."""
BUSY = 1024
"""MiB of a card in use above which somebody else is taken to be there."""


def devices(config: RunConfig) -> Findings:
    """Every GPU that the driver sees, and whether torch sees it too."""
    found = Findings("devices")
    seen = _cards()
    for number, card in enumerate(seen):
        found.fact(
            f"GPU {number}",
            f"{card['name']}, {card['memory.total']} MiB, capability {card['compute_cap']}, "
            f"ECC {card['ecc.mode.current'].lower()}, driver {card['driver_version']}",
        )
        errors, used = card["ecc.errors.uncorrected.volatile.total"], card["memory.used"]
        if errors.isdigit() and int(errors):
            found.problem(
                f"GPU {number} has {errors} uncorrected memory errors: restart the machine, and if "
                "they come again have the card replaced",
                stops=True,
            )
        if used.isdigit() and int(used) > BUSY:
            found.problem(f"GPU {number} has {used} MiB in use: end what else runs on it")
    import torch

    usable = torch.cuda.device_count()
    if not seen and not usable:
        found.fact("GPU", "none: a CPU computes")
    if seen and not usable:
        reason = "torch is built without CUDA" if torch.version.cuda is None else "CUDA fails"
        found.problem(
            f"the driver sees {len(seen)} GPUs and torch none, {reason}: install torch for the "
            f"CUDA of driver {seen[0]['driver_version']}, and look at CUDA_VISIBLE_DEVICES",
            stops=True,
        )
    for problem in config.engine.check(config.launch.nproc, config.launch.nproc):
        found.problem(problem, stops=True)
    return found


def links(config: RunConfig) -> Findings:
    """What was measured, or else what the driver says of the wires."""
    found = Findings("links")
    if config.parallel.links:
        from lmtrain.parallel.links import read_links

        try:
            measured, _ = read_links(Path(config.parallel.links))
        except ValueError as error:
            found.problem(str(error), stops=True)
            return found
        for kind, link in (("inside a host", measured.inside), ("across hosts", measured.across)):
            if link:
                latency, speed = 1e6 * link.latency_seconds, link.bytes_per_second / 1e9
                found.fact(kind, f"{latency:,.3g} µs, {speed:,.3g} GB/s")
        return found
    matrix = _tool("nvidia-smi", "topo", "-m")
    for line in matrix.splitlines() if matrix else ():
        cells = line.split()
        if cells and cells[0].startswith("GPU") and "X" in cells:
            found.fact(cells[0], " ".join(cells[1:]))
    found.fact("measured", "nothing: `lmtrain bench what=links` under torchrun measures")
    return found


def kernels(config: RunConfig) -> Findings:
    """Which backend ``ops.backend`` comes to here, and why the others do not run."""
    from lmtrain.ops.config import Backend, backend_problems, resolve

    found = Findings("kernels")
    capability = config.engine.capability()
    chosen = resolve(config.ops.backend, capability)
    found.fact(f"ops.backend={config.ops.backend}", f"comes to {chosen}")
    for backend in (Backend.triton, Backend.fla, Backend.flash_qla):
        reasons = [_reason(problem) for problem in backend_problems(backend, capability)]
        found.fact(backend, f"cannot run: {'; '.join(reasons)}" if reasons else "can run")
    for problem in config.ops.check(capability):
        found.problem(problem, stops=True)
    compiler = next(
        filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), ""
    )
    found.fact("C compiler", compiler or "none")
    if not compiler and capability is not None:
        found.problem(
            "there is no C compiler, and Triton needs one to launch kernels: install gcc",
            stops=True,
        )
    if capability is not None and chosen is Backend.triton and not found.problems:
        _try(config, found)
    return found


def _reason(problem: str) -> str:
    """Why a backend cannot run, where nobody asked for it: without its key and what to say else."""
    told = re.sub(r"^ops\.backend=\w+(, but)? ", "", problem)
    return re.sub(r"(, or|:) say ops\.backend=torch$", "", told).replace(": ", "; ")


def _try(config: RunConfig, found: Findings) -> None:
    """Compile one small kernel, and compare it with the reference."""
    import torch

    from lmtrain.ops import norm
    from lmtrain.ops.backend import choose
    from lmtrain.ops.config import OpsConfig

    x = torch.randn(64, 4, 64, device="cuda", dtype=torch.bfloat16)
    try:
        fast = choose(OpsConfig(backend=config.ops.backend), x.device).l2_norm(x).float()
    except Exception as error:  # whatever a compiler says
        found.problem(f"a Triton kernel does not compile here: {error}", stops=True)
        return
    gap = (fast - norm.l2_norm(x)).abs().max().item()
    found.fact("a kernel", f"compiles; differs from torch by {gap:.1g}")


def _cards() -> list[dict[str, str]]:
    """What nvidia-smi says of every card; nothing without it."""
    text = _tool("nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits")
    rows = csv.reader(io.StringIO(text or ""), skipinitialspace=True)
    return [dict(zip(QUERY, row, strict=True)) for row in rows if len(row) == len(QUERY)]


def _tool(*command: str) -> str | None:
    """The output of a tool of the driver; None where it is not, or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
