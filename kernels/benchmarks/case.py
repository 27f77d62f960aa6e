"""What is measured: an operation, its sizes and documents, and the least that it costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import torch

from lmtrain.layout import SequenceLayout

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 64
"""Tokens of the chunks whose products are counted."""
EPS = 1e-6
SMALL = (130, 1, 63, 66, 12)
"""Documents on which results are compared with the reference. 16 divides their sum, as it divides
those of the cases, so that compilers make the same of them."""


class Cost(NamedTuple):
    """The least that has to be done."""

    bytes: int
    """Every input read once, every output written once."""
    flops: float
    """Of matrix products, in chunks of 64 tokens, triangles counted whole."""


@dataclass(frozen=True, kw_only=True)
class Case(ABC):
    """An operation on packed documents of these lengths, in bf16."""

    operation: ClassVar[str]
    lengths: tuple[int, ...]
    training: bool = True
    """Measure the backward pass too."""

    @property
    def documents(self) -> str:
        """Such as ``8x1024``."""
        alike = len(set(self.lengths)) == 1
        return f"{len(self.lengths)}x{self.lengths[0]}" if alike else f"packed {self.tokens}"

    @property
    def tokens(self) -> int:
        """Of the row."""
        return sum(self.lengths)

    @property
    @abstractmethod
    def sizes(self) -> str:
        """All but the documents, in words; cases with equal sizes share their kernels."""

    @abstractmethod
    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Inputs of ordinary values, on the generator's device; gates and parameters in fp32."""

    @abstractmethod
    def expected(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> Tensor:
        """The output as the reference computes it, in the inputs' dtype."""

    @abstractmethod
    def forward(self) -> Cost:
        """Of the forward pass."""

    @abstractmethod
    def backward(self) -> Cost:
        """Of the backward pass, which gets the inputs and the output's gradient."""

    def __str__(self) -> str:
        return f"{self.operation} {self.sizes} {self.documents}"

    def layout(self, device: torch.device) -> SequenceLayout:
        """Of the whole row."""
        return SequenceLayout.of_lengths(self.lengths).to(device)

    def small(self) -> Self:
        """The same sizes on few tokens."""
        return replace(self, lengths=SMALL)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """bf16."""
    device = generator.device
    return torch.randn(*shape, generator=generator, device=device).bfloat16()
