"""The recurrences: what enters them, and the least that they cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from benchmarks.case import CHUNK, Case, Cost, normal
from lmtrain.ops import reference

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout


@dataclass(frozen=True, kw_only=True)
class GatedDelta(Case):
    """``q, k [t, g, k], v [t, h, v], decay, beta [t, h]``."""

    operation = "gated_delta"
    heads: int
    groups: int
    width: int

    @property
    def sizes(self) -> str:
        """Key heads, value heads, width of both."""
        return f"{self.groups}/{self.heads} heads of {self.width}"

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Keys of norm one; decays from 1e-5 to 1 a token, as at the start of a training."""
        t, g, h, d = self.tokens, self.groups, self.heads, self.width
        q, k = (F.normalize(normal(generator, t, g, d), dim=-1) for _ in "qk")
        v, beta = normal(generator, t, h, d), normal(generator, t, h).float().sigmoid()
        return q * d**-0.5, k, v, _decay(generator, t, h)[1], beta

    def expected(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> Tensor:
        """Token by token."""
        return reference.gated_delta(*inputs, layout=layout)[0]

    def forward(self) -> Cost:
        """Inputs and outputs, no state."""
        return Cost(self._inputs() + self._values(), self._products())

    def backward(self) -> Cost:
        """Each product has two adjoints; what the outputs do not need is computed again."""
        again = self._products() - self.tokens * self.heads * 2 * (CHUNK + self.width) * self.width
        return Cost(2 * self._inputs() + self._values(), 2 * self._products() + again)

    def _values(self) -> int:
        return 2 * self.tokens * self.heads * self.width

    def _inputs(self) -> int:
        keys = 2 * self.tokens * self.groups * self.width
        return 2 * keys + self._values() + 2 * 4 * self.tokens * self.heads

    def _products(self) -> float:
        """K K^T, Q K^T; T [V | K], P written; w S, Q S, K^T written."""
        d, between_keys = self.width, 2 * CHUNK * self.width * 2 * self.groups
        inside, states = 2 * CHUNK * 3 * d, 2 * d * d * 3
        return self.tokens * (between_keys + self.heads * (inside + states))


@dataclass(frozen=True, kw_only=True)
class Ssd(Case):
    """``C, B [t, g, k], u [t, h, v], dt [t, h], A [h]``, as Mamba-2 calls them."""

    operation = "ssd"
    heads: int
    groups: int
    key: int
    value: int

    @property
    def sizes(self) -> str:
        """Groups, heads, width of keys and of values."""
        return f"{self.groups}/{self.heads} heads of {self.key}x{self.value}"

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Step sizes and ``A`` as at the start of a training."""
        t, g, h = self.tokens, self.groups, self.heads
        C, B = (normal(generator, t, g, self.key) for _ in "CB")
        dt, decay = _decay(generator, t, h)
        return C, B, normal(generator, t, h, self.value), dt, decay[0] / dt[0]

    def expected(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> Tensor:
        """Token by token."""
        C, B, u, dt, A = inputs
        return reference.ssd(C, B, u * dt[..., None], dt * A, layout=layout)[0]

    def forward(self) -> Cost:
        """Inputs and outputs, no state."""
        return Cost(self._inputs() + self._values(), self._products())

    def backward(self) -> Cost:
        """Each product has two adjoints; the states are computed again."""
        again = self.tokens * self.heads * 2 * self.key * self.value
        return Cost(2 * self._inputs() + self._values(), 2 * self._products() + again)

    def _values(self) -> int:
        return 2 * self.tokens * self.heads * self.value

    def _inputs(self) -> int:
        return 4 * self.tokens * (self.groups * self.key + self.heads) + self._values()

    def _products(self) -> float:
        """C B^T; P V; C S, B^T V."""
        head = 2 * CHUNK * self.value + 2 * 2 * self.key * self.value
        return self.tokens * (self.groups * 2 * CHUNK * self.key + self.heads * head)


def _decay(generator: torch.Generator, tokens: int, heads: int) -> tuple[Tensor, Tensor]:
    """Step sizes of 0.001 to 0.1 and the log decays, ``[t, h]`` fp32."""
    uniform = torch.rand(2, heads, generator=generator, device=generator.device)
    bias = torch.special.expm1(0.001 * 100 ** uniform[0]).log()  # softplus gives 0.001 to 0.1
    dt = F.softplus(normal(generator, tokens, heads).float() + bias)
    return dt, -(1 + 15 * uniform[1]) * dt
