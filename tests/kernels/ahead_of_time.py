"""Compiles what a launch would compile, for cards that are not here, and reads what came out.

Runs as a script in a process of its own, since the interpreter must be off and the driver is
replaced: ``python ahead_of_time.py MODULE FUNCTION CARD`` imports MODULE from this folder, calls
``FUNCTION()``, which calls public operations on CPU tensors, and prints one JSON line for each
kernel: name, card, registers, spilled bytes, shared bytes, tensor-core instructions.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

CARDS = (80, 89, 90, 100)
SHARED_LIMIT = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes of shared memory that a program may have (CUDA C++ Programming Guide, table 30)."""


def compiled(module: str, function: str, card: int, timeout: float = 600) -> list[dict[str, Any]]:
    """What ``function()`` of ``module`` in this folder launches, compiled for ``card``."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, __file__, module, function, str(card)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr[-4000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def problems(kernels: list[dict[str, Any]], *, tensor_cores: frozenset[str]) -> list[str]:
    """What must not be: spills, too much shared memory, dots without tensor cores.

    ``tensor_cores`` are the kernels that must use them.
    """
    found = []
    for kernel in kernels:
        name = f"{kernel['name']} on sm_{kernel['card']} {kernel['constants']}"
        if kernel["spills"]:
            found.append(
                f"{name} spills {kernel['spills']} bytes ({kernel['registers']} registers)"
            )
        if kernel["shared"] > SHARED_LIMIT[kernel["card"]]:
            found.append(f"{name} wants {kernel['shared']:,} bytes of shared memory")
        if kernel["name"] in tensor_cores and not kernel["tensor_cores"]:
            found.append(f"{name} uses no tensor cores")
    return found


def _compile(function: Any, card: int) -> list[Any]:
    """Call ``function`` with launches replaced by compilations for ``card``."""
    from emulator.target import compiling

    found: dict[int, Any] = {}
    with compiling(card, lambda kernel, *_: found.update({id(kernel): kernel})):
        function()
    return list(found.values())


def _describe(kernel: Any, card: int) -> dict[str, Any]:
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    number = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    ptx = kernel.asm["ptx"]
    return {
        "name": kernel.metadata.name,
        "card": card,
        "constants": {k: v for k, v in _constants(kernel).items() if isinstance(v, int | str)},
        "warps": kernel.metadata.num_warps,
        "registers": number["REG"],
        "spills": number["STACK"] + number["LOCAL"],
        "shared": kernel.metadata.shared,
        "tensor_cores": sorted(set(re.findall(r"\b(wgmma|tcgen05|mma)\.", ptx))),
    }


def _constants(kernel: Any) -> dict[str, Any]:
    names = kernel.src.fn.arg_names
    return {names[path[0]]: value for path, value in kernel.src.constants.items()}


def _main() -> None:
    module, function, card = sys.argv[1:]
    sys.path.insert(0, str(Path(__file__).parent))
    call = getattr(import_module(module), function)
    for kernel in _compile(call, int(card)):
        print(json.dumps(_describe(kernel, int(card))), flush=True)


if __name__ == "__main__":
    _main()
