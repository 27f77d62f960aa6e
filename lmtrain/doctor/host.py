"""Processors, memory, limits, disks and network interfaces of this machine."""

from __future__ import annotations

import os
import resource
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from lmtrain.data.store import cache_folder
from lmtrain.data.workers import usable_cores
from lmtrain.doctor.findings import Findings, amount
from lmtrain.machine import cpu

if TYPE_CHECKING:
    from lmtrain.config import RunConfig

GIB = 2**30
SHARED, FREE = GIB, 10 * GIB
"""Bytes below which shared memory and a disk are told to be small."""
FILES = 4096
"""Open files below which the limit is told to be low."""


def resources(config: RunConfig) -> Findings:
    """Cores, memory and limits."""
    found = Findings("host")
    cores = usable_cores()
    found.fact("processor", f"{cpu()}, {cores} of {os.cpu_count()} cores usable")
    if config.launch.nproc > cores:
        found.problem(
            f"launch.nproc={config.launch.nproc} is more than the {cores} cores that may be used: "
            "processes will wait for each other; lower it"
        )
    memory = _memory()
    if memory:
        found.fact("memory", f"{amount(memory[0])}, {amount(memory[1])} free")
    shared = Path("/dev/shm")
    if shared.is_dir():
        usage = shutil.disk_usage(shared)
        found.fact("shared memory", f"{amount(usage.total)} in /dev/shm, {amount(usage.free)} free")
        if usage.total < SHARED:
            found.problem(
                f"/dev/shm has {amount(usage.total)}: NCCL exchanges data there and may fail; "
                "start the container with --shm-size=8g or --ipc=host"
            )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found.fact("open files", f"{soft:,} of at most {hard:,}")
    if soft < FILES:
        found.problem(f"only {soft:,} files may be open: say ulimit -n {min(hard, 65_536)}")
    return found


def disks(config: RunConfig) -> Findings:
    """Where runs and caches go."""
    found = Findings("disks")
    for problem in config.run.check():
        found.problem(problem, stops=True)
    for key, folder in (
        ("run.dir", Path(config.run.dir)),
        ("cache", cache_folder(config.data)),
    ):
        place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        free = shutil.disk_usage(place).free
        found.fact(key, f"{folder}, {amount(free)} free")
        if not os.access(place, os.W_OK):
            found.problem(f"{key}: {place} cannot be written; choose another folder", stops=True)
        elif free < FREE:
            found.problem(
                f"{key}: {amount(free)} are free at {place}, and a checkpoint takes twelve bytes a "
                "parameter; choose another disk, or lower checkpoint.keep"
            )
    return found


def network() -> Findings:
    """Interfaces that gloo and NCCL can use, and whether this host knows its own name."""
    found = Findings("network")
    names = [name for _, name in socket.if_nameindex()]
    for name in names:
        state = _read(Path("/sys/class/net", name, "operstate")) or "unknown"
        speed = _read(Path("/sys/class/net", name, "speed"))
        found.fact(name, state + (f", {speed} Mb/s" if speed and speed.isdigit() else ""))
    cards = sorted(path.name for path in Path("/sys/class/infiniband").glob("*"))
    found.fact("InfiniBand", ", ".join(cards) or "none")
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        value = os.environ.get(variable)
        if not value:
            continue
        found.fact(variable, value)
        asked = value.lstrip("^=").split(",")
        if not value.startswith("^") and not any(n.startswith(a) for a in asked for n in names):
            found.problem(
                f"{variable}={value} names no interface of {', '.join(names)}: unset it, or name "
                "one of them",
                stops=True,
            )
    if not os.environ.get("GLOO_SOCKET_IFNAME") and not _has_address(socket.gethostname()):
        found.problem(
            f"{socket.gethostname()}, the name of this host, has no address, and gloo asks for it: "
            "add it to /etc/hosts, or set GLOO_SOCKET_IFNAME"
        )
    return found


def _has_address(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


def _memory() -> tuple[int, int] | None:
    """Bytes in all and free, where Linux tells."""
    text = _read(Path("/proc/meminfo"))
    if text is None:
        return None
    fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines()}
    return fields["MemTotal"], fields["MemAvailable"]


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
