"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), pairs ``(i, i + width/2)``."""

from __future__ import annotations

from math import ceil, floor, log, pi
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lmtrain.layout import SequenceLayout


class Frequencies(NamedTuple):
    """How each pair of a head turns. It can be hashed, so that equal ones share their tables."""

    values: tuple[float, ...]
    """Radians per token."""
    scale: float = 1.0
    """What the pairs are multiplied by as they turn; its square multiplies logits of attention."""


def frequencies(width: int, theta: float) -> Frequencies:
    """``theta^(-2i / width)`` for the pairs ``i`` of the width that turns; on the host."""
    exponent = torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width
    return Frequencies(tuple((theta**-exponent).tolist()))


def interpolated(width: int, theta: float, *, factor: float) -> Frequencies:
    """Position interpolation (Chen et al. 2023, arXiv 2306.15595): positions over ``factor``."""
    return Frequencies(tuple(value / factor for value in frequencies(width, theta).values))


def yarn(
    width: int,
    theta: float,
    *,
    factor: float,
    original_length: int,
    beta_fast: float,
    beta_slow: float,
    attention_factor: float | None,
) -> Frequencies:
    """YaRN (Peng et al. 2023, arXiv 2309.00071), as ``rope_type=yarn`` of transformers has it.

    Pairs between ``beta_fast`` and ``beta_slow`` turns within ``original_length`` go over from
    unchanged to interpolated, linearly in their number (section 3.2 of the paper, whose ramp is
    linear in the turns). ``attention_factor`` None is that of section 3.4.
    """

    def pair(turns: float) -> float:
        """The pair, as a real number, that turns so often within ``original_length``."""
        return width * log(original_length / (turns * 2 * pi)) / (2 * log(theta))

    first, last = max(floor(pair(beta_fast)), 0), min(ceil(pair(beta_slow)), width - 1)
    over = (last - first) or 1e-3
    slowed = [min(max((i - first) / over, 0.0), 1.0) for i in range(width // 2)]
    if attention_factor is None:
        attention_factor = 0.1 * log(factor) + 1
    values = _divided(frequencies(width, theta).values, slowed, factor=factor)
    return Frequencies(values, attention_factor)


def llama3(
    width: int,
    theta: float,
    *,
    factor: float,
    original_length: int,
    low_freq_factor: float,
    high_freq_factor: float,
) -> Frequencies:
    """Llama 3.1 (Grattafiori et al. 2024, arXiv 2407.21783), as ``rope_type=llama3`` has it.

    Pairs between ``high_freq_factor`` and ``low_freq_factor`` turns within ``original_length`` go
    over from unchanged to interpolated, linearly in their turns: the ramp of YaRN's paper, without
    its attention factor.
    """
    values, over = frequencies(width, theta).values, high_freq_factor - low_freq_factor
    turns = (original_length * value / (2 * pi) for value in values)
    slowed = [min(max((high_freq_factor - each) / over, 0.0), 1.0) for each in turns]
    return Frequencies(_divided(values, slowed, factor=factor))


def _divided(
    values: Sequence[float], slowed: Sequence[float], *, factor: float
) -> tuple[float, ...]:
    """Frequencies over ``factor``, each to the part that ``slowed`` says."""
    pairs = zip(values, slowed, strict=True)
    return tuple(value * (1 - part + part / factor) for value, part in pairs)


def angles(layout: SequenceLayout, *, of: Frequencies) -> tuple[Tensor, Tensor]:
    """``[t, 1, pairs]`` cosines and sines, by the position of each token in its document."""
    return layout.derive(_tables, of)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each head of ``x [t, h, d]`` by its ``angles``; computed in at least fp32.

    Where there are fewer than ``d / 2`` pairs, the dimensions behind them stay.
    """
    pairs, exact = cos.shape[-1], torch.promote_types(x.dtype, torch.float32)
    a, b, still = x.to(exact).split([pairs, pairs, x.shape[-1] - 2 * pairs], -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, still], -1).to(x.dtype)


def _tables(layout: SequenceLayout, of: Frequencies) -> tuple[Tensor, Tensor]:
    """In fp32 from fp64 angles: exact at any position."""
    angle = layout.position[:, None].double() * layout.tensor(of.values, torch.float64)
    cos, sin = ((of.scale * x).float()[:, None] for x in (angle.cos(), angle.sin()))
    return cos, sin
