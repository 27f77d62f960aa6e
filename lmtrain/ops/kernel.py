"""What mixers call on tensors indexed by token, and what strategies put in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout


class Kernel(Protocol):
    """A function of token-first, head-second tensors ``[t, h, …]`` to ``[t, h, v]``."""

    def __call__(self, *tensors: Tensor, layout: SequenceLayout) -> Tensor:
        """Run over the span of ``layout``."""
        ...


class Convolve(Protocol):
    """A short convolution: ``x [t, c], weight [taps, c], bias [c] -> [t, c]``."""

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, *, layout: SequenceLayout
    ) -> Tensor:
        """Run over the span of ``layout``."""
        ...
