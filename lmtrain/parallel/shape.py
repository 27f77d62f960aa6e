"""What the cost model has to know of a mixer, and of the row it runs over."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from lmtrain.layout import SequenceLayout

FP32 = 4
"""Bytes of a number."""


class Transition(StrEnum):
    """What a span does to a state: multiplies each head by a number, or by a matrix."""

    scalar = "scalar"
    matrix = "matrix"


@dataclass(frozen=True)
class AttentionShape:
    """Softmax attention (``A``), or over a window (``W``)."""

    q_heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None

    @property
    def letter(self) -> str:
        """As in a pattern."""
        return "A" if self.window is None else "W"

    @property
    def heads(self) -> int:
        """What Ulysses shares out."""
        return self.q_heads


@dataclass(frozen=True)
class RecurrentShape:
    """A linear recurrence behind a short convolution (``M``: scalar, ``G``: matrix)."""

    heads: int
    """One state each, ``[key_dim, value_dim]``."""
    key_heads: int
    """Heads (``G``) or groups (``M``) of keys and queries."""
    key_dim: int
    value_dim: int
    transition: Transition
    conv_channels: int
    taps: int

    @property
    def letter(self) -> str:
        """As in a pattern."""
        return "M" if self.transition is Transition.scalar else "G"

    @property
    def gates(self) -> int:
        """Numbers a token and head beside q, k and v, in fp32: the decay, and beta."""
        return 1 if self.transition is Transition.scalar else 2

    @property
    def state(self) -> int:
        """Numbers of the state of all heads."""
        return self.heads * self.key_dim * self.value_dim

    @property
    def transitions(self) -> int:
        """Numbers of the transition of all heads."""
        return self.heads * (1 if self.transition is Transition.scalar else self.key_dim**2)


Shape: TypeAlias = AttentionShape | RecurrentShape


@dataclass(frozen=True)
class Block:
    """Neighbouring ranks that no document leaves: a row of its own, a strategy's whole world."""

    layout: SequenceLayout
    """The span of its first rank."""
    ranks: int
    element: int = 2
    """Bytes of an activation."""

    @property
    def exact(self) -> int:
        """Bytes of a state, a log decay, or a gradient that is still to be added to."""
        return max(FP32, self.element)

    @property
    def bounds(self) -> tuple[int, ...]:
        """Where its documents start, and its end."""
        return self.layout.bounds

    @property
    def length(self) -> int:
        """Tokens of a rank."""
        return len(self.layout)

    def spans(self) -> list[SequenceLayout]:
        """The span of each rank."""
        return self.layout.derive(SequenceLayout.spans, self.ranks)


def blocks(bounds: tuple[int, ...], ranks: int, *, element: int = 2) -> list[Block]:
    """The different blocks that the documents of a row leave its ranks in.

    Raises:
        ValueError: the row does not divide by the ranks.
    """
    layout = SequenceLayout.whole(bounds).shard(0, ranks)
    degree = layout.degree(ranks)
    size = degree * len(layout)
    parts = (
        layout.at(first).restricted(first * len(layout), first * len(layout) + size)
        for first in range(0, ranks, degree)
    )
    return list(dict.fromkeys(Block(part, degree, element) for part in parts))
