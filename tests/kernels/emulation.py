"""Runs checks on emulated machine code, many in a process of its own.

A process of its own since Triton's interpreter, in which the tests run, is chosen when a kernel is
defined: ``python emulation.py MODULE FUNCTION WORD ...`` imports MODULE from this folder and calls
``FUNCTION(WORD, ...)``, which gives checks by name, and prints one JSON line for each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).parent


def failures(module: str, function: str, *words: str, timeout: float = 3000) -> dict[str, str]:
    """Checks that failed, and why.

    Raises:
        RuntimeError: there were none, or the process ended badly.
    """
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["CUDA_VISIBLE_DEVICES"] = ""  # cases draw on a card if there is one
    command = [sys.executable, __file__, module, function, *words]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"check"')]
    if done.returncode or not found:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return {line["check"]: line["failure"] for line in found if line["failure"]}


def _failure(check: Callable[[], None]) -> str:
    torch.manual_seed(3)
    try:
        check()
    except Exception as error:  # whatever it is, the others shall run
        return f"{type(error).__name__}: {error}"
    return ""


def _main() -> None:
    module, function, *words = sys.argv[1:]
    sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]
    torch.use_deterministic_algorithms(True)  # `torch.empty` holds nan
    torch.set_num_threads(1)
    checks: dict[str, Callable[[], None]] = getattr(import_module(module), function)(*words)
    for name, check in checks.items():
        begun = process_time()
        line = {"check": name, "failure": _failure(check)}
        print(json.dumps({**line, "seconds": round(process_time() - begun, 2)}), flush=True)


if __name__ == "__main__":
    _main()
