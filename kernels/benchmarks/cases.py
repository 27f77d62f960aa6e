"""The shapes that the kernels are judged by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.pointwise import (
    AddNorm,
    DeltaGates,
    Discretize,
    GateThenNorm,
    L2Norm,
    NormThenGate,
    RmsNorm,
    Rotary,
    ShortConv,
    SwiGlu,
)
from benchmarks.recurrences import GatedDelta, Ssd

if TYPE_CHECKING:
    from benchmarks.case import Case


def _packed(tokens: int) -> tuple[int, ...]:
    """Documents of every length, few of them long."""
    drawn = np.random.default_rng(0).lognormal(6.5, 1.3, tokens).astype(int) + 1
    ends = drawn.cumsum()
    lengths = drawn[: np.searchsorted(ends, tokens)]
    return (*lengths.tolist(), tokens - int(lengths.sum()))


def _qwen(*lengths: int) -> GatedDelta:
    return GatedDelta(lengths=lengths, groups=16, heads=32, width=128)


def _mamba(*lengths: int) -> Ssd:
    return Ssd(lengths=lengths, groups=1, heads=48, key=128, value=64)


PACKED = _packed(32_768)

CASES: tuple[Case, ...] = (
    _qwen(8192),
    _qwen(32_768),
    _qwen(*[1024] * 8),
    _qwen(*PACKED),
    GatedDelta(lengths=(16_384,) * 2, groups=16, heads=16, width=128),
    _mamba(8192),
    _mamba(32_768),
    _mamba(*[1024] * 8),
    _mamba(*[128] * 256),
    _mamba(*PACKED),
    ShortConv(lengths=(8192,), channels=6144),
    ShortConv(lengths=(32_768,), channels=8192),
    ShortConv(lengths=PACKED, channels=8192),
    DeltaGates(lengths=(32_768,), heads=32),
    Discretize(lengths=(8192,), heads=48, width=64),
    NormThenGate(lengths=(8192,), heads=32, width=128),
    NormThenGate(lengths=(32_768,), heads=32, width=128),
    GateThenNorm(lengths=(8192,), heads=1, width=4096),
    GateThenNorm(lengths=(32_768,), heads=1, width=4096),
    L2Norm(lengths=(32_768,), heads=16, width=128),
    RmsNorm(lengths=(8192,), width=1024),
    RmsNorm(lengths=(32_768,), width=2048),
    AddNorm(lengths=(8192,), width=1024),
    AddNorm(lengths=(32_768,), width=2048),
    SwiGlu(lengths=(8192,), width=2816),
    SwiGlu(lengths=(32_768,), width=5632),
    Rotary(lengths=(32_768,), heads=16, width=128),
)
"""What the kernels are judged by."""

SMOKE: tuple[Case, ...] = (
    GatedDelta(lengths=(70, 3), groups=1, heads=2, width=32),
    Ssd(lengths=(70, 3), groups=1, heads=2, key=32, value=32),
    ShortConv(lengths=(70, 3), channels=48),
    DeltaGates(lengths=(20,), heads=3),
    Discretize(lengths=(20,), heads=3, width=32),
    NormThenGate(lengths=(20,), heads=2, width=32),
    GateThenNorm(lengths=(20,), heads=1, width=96),
    L2Norm(lengths=(20,), heads=2, width=32),
    RmsNorm(lengths=(20,), width=96),
    AddNorm(lengths=(20,), width=96),
    SwiGlu(lengths=(20,), width=48),
    Rotary(lengths=(20, 7), heads=2, width=32),
)
"""One of each, small enough for Triton's interpreter."""
