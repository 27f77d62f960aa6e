"""The names of the strategies of sequence parallelism, and which mixers each one serves."""

from __future__ import annotations

from enum import StrEnum


class Strategy(StrEnum):
    """How the spans of a row are brought together where a mixer needs more than its own."""

    auto = "auto"
    """The cheapest that fits, by the cost model."""
    local = "local"
    """No document leaves a span: nothing is sent."""
    ring = "ring"
    """Keys and values go round, each rank attends to the block that is with it."""
    zigzag = "zigzag"
    """A ring in which every rank holds one early and one late chunk: equal work."""
    ulysses = "ulysses"
    """Spans of all heads become all spans of some heads, and back."""
    usp = "usp"
    """Ulysses among neighbours, a ring across."""
    gather = "gather"
    """Every rank gets the keys and values of all."""
    halo = "halo"
    """The few tokens before a span that a window reaches."""
    lasp2 = "lasp2"
    """Every rank gets what all spans do to a state."""
    zeco = "zeco"
    """States go down a pipelined chain."""


_WHOLE = (Strategy.ring, Strategy.zigzag, Strategy.ulysses, Strategy.usp, Strategy.gather)
_WINDOW = (Strategy.halo, Strategy.ring, Strategy.ulysses, Strategy.usp, Strategy.gather)
_STATE = (Strategy.lasp2, Strategy.zeco, Strategy.ulysses)

FITS: dict[str, tuple[Strategy, ...]] = {"A": _WHOLE, "W": _WINDOW, "M": _STATE, "G": _STATE}
"""What can be chosen for the mixer of each letter of a pattern."""
