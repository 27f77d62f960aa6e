"""Launches of Triton on tensors of this host: compiled for a card, run by the emulator."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emulator.counters import Meter
from emulator.machine import Emulator
from emulator.memory import EmulationError, GlobalMemory
from emulator.program import parse
from emulator.target import compiling

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from emulator.counters import Profile

CARDS = (80, 90)
"""Compute capabilities times ten: Ampere and Hopper."""


@contextmanager
def emulated(card: int, profile: Profile | None = None) -> Generator[None]:
    """Meanwhile kernels run on tensors of the host as if on ``card``; ``profile`` counts.

    Raises:
        ValueError: that card's instructions are not known here.
    """
    if card not in CARDS:
        known = ", ".join(map(str, CARDS))
        raise ValueError(f"card={card} is not emulated: its tensor cores are others; take {known}")

    def start(kernel: Any, grid: Sequence[int], arguments: dict[str, Any]) -> None:
        launch(kernel, grid, arguments, profile)

    with compiling(card, start):
        yield


def launch(
    kernel: Any,
    grid: Sequence[int],
    arguments: dict[str, Any],
    profile: Profile | None = None,
    ptx: str | None = None,
) -> None:
    """Run the compiled ``kernel`` with ``arguments`` by name; ``ptx`` in place of its own.

    Raises:
        EmulationError: a race, or an access out of bounds or off its alignment.
        NotImplementedError: an instruction is not known here.
        ValueError: a tensor is not on this host.
    """
    emulator = _emulator(ptx or kernel.asm["ptx"])
    program = emulator.program
    names = [name for name, kind in kernel.src.signature.items() if kind != "constexpr"]
    tensors = [(name, arguments[name]) for name in names if torch.is_tensor(arguments[name])]
    for name, tensor in tensors:
        if tensor.device.type != "cpu":
            raise ValueError(
                f"{name} is on {tensor.device}, the emulator on the host: move it there"
            )
    numbers = [_number(arguments[name]) for name in names]
    numbers += [np.array(0)] * (len(program.parameters) - len(numbers))  # scratch, never used
    parameters = dict(zip(program.parameters, numbers, strict=True))
    shared = kernel.metadata.shared
    meter = None
    if profile is not None:
        meter = Meter(program.name, prod(grid), program.threads // 32, shared)
        profile.launches.append(meter)
    try:
        emulator(grid, parameters, GlobalMemory(tensors), shared, meter)
    except EmulationError as error:
        raise EmulationError(f"{program.name}: {error}") from None


@cache
def _emulator(text: str) -> Emulator:
    return Emulator(parse(text))


def _number(argument: Any) -> Any:
    """A whole number: an address, or the bits of an fp32."""
    if torch.is_tensor(argument):
        return np.array(argument.data_ptr(), np.int64)
    if isinstance(argument, float):
        return np.array(argument, np.float32).view(np.uint32)
    return np.array(argument, np.int64)
