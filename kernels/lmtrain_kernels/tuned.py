"""How each kernel is launched: tile sizes, warps and stages, tuned once and shipped.

A run never tunes. Neither the length of a row nor the number of its documents is part of a key.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Generator

DEFAULT_CAPABILITY = 90
"""What tensors that are on no card are launched like: interpreter and ahead-of-time compilation."""

_elsewhere = [DEFAULT_CAPABILITY]


def tuned(kernel: str, device: torch.device, **key: int | str) -> dict[str, Any]:
    """Constants, ``num_warps`` and ``num_stages`` of a launch.

    Rows of ``tuned.json`` are tried in order: the first of this ``kernel`` that names no other card
    and no other ``key`` wins.

    Raises:
        ValueError: there is none.
    """
    return dict(_lookup(kernel, capability(device), tuple(sorted(key.items()))))


def capability(device: torch.device) -> int:
    """Compute capability times ten, such as 90 for Hopper."""
    if device.type != "cuda":
        return _elsewhere[-1]
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@cache
def multiprocessors(device: torch.device, elsewhere: int) -> int:
    """Those of a card; ``elsewhere`` of what is none."""
    if device.type != "cuda":
        return elsewhere
    return torch.cuda.get_device_properties(device).multi_processor_count


@contextmanager
def as_if(compute_capability: int) -> Generator[None]:
    """Meanwhile tensors that are on no card are launched as on this one."""
    _elsewhere.append(compute_capability)
    try:
        yield
    finally:
        _elsewhere.pop()


@cache
def _lookup(kernel: str, card: int, key: tuple[tuple[str, int | str], ...]) -> dict[str, Any]:
    wanted = dict(key)
    for row in _rows():
        named = row.get("key", {})
        fits = all(wanted.get(name) == value for name, value in named.items())
        if row["kernel"] == kernel and card in row.get("cards", [card]) and fits:
            return row["launch"]
    raise ValueError(f"tuned.json has no row for {kernel} on sm_{card} with {wanted}: add one")


@cache
def _rows() -> list[dict[str, Any]]:
    return json.loads((files("lmtrain_kernels") / "tuned.json").read_text())
