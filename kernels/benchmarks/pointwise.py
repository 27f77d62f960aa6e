"""What works number by number or row by row: bytes are all that it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from benchmarks.case import EPS, Case, Cost, normal
from lmtrain.ops import reference
from lmtrain.ops.rotary import angles, frequencies

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout


@dataclass(frozen=True, kw_only=True)
class ShortConv(Case):
    """``x [t, c], weight [taps, c], bias [c]``, with SiLU."""

    operation = "short_conv"
    channels: int
    taps: int = 4

    @property
    def sizes(self) -> str:
        """Channels and taps."""
        return f"{self.channels} channels, {self.taps} taps"

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Parameters in fp32."""
        weight = normal(generator, self.taps, self.channels).float() / 2
        bias = normal(generator, self.channels).float()
        return normal(generator, self.tokens, self.channels), weight, bias

    def expected(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> Tensor:
        """Token by token."""
        x, weight, bias = inputs
        return reference.short_conv(x, weight, bias, [self.channels], layout=layout)[0]

    def forward(self) -> Cost:
        """``x`` in, ``y`` out."""
        return Cost(2 * 2 * self.tokens * self.channels, 0)

    def backward(self) -> Cost:
        """``x`` and ``dy`` in, ``dx`` out."""
        return Cost(3 * 2 * self.tokens * self.channels, 0)


@dataclass(frozen=True, kw_only=True)
class DeltaGates(Case):
    """``dt, beta [t, h], bias, A_log [h]``: decays and betas of Gated DeltaNet."""

    operation = "delta_gates"
    heads: int

    @property
    def sizes(self) -> str:
        """Heads a token."""
        return f"{self.heads} heads"

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Parameters in fp32."""
        dt, beta = (normal(generator, self.tokens, self.heads) for _ in "db")
        bias, A_log = (normal(generator, self.heads).float() for _ in "bA")
        return dt, beta, bias - 4, A_log

    def expected(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> Tensor:
        """The definition; both outputs as one sum."""
        del layout
        dt, beta, bias, A_log = inputs
        return torch.add(*reference.delta_gates(dt, beta, bias, A_log))

    def forward(self) -> Cost:
        """Two numbers in, two in fp32 out, and their sum."""
        return Cost((2 * 2 + 4 * 4 + 4) * self.tokens * self.heads, 0)

    def backward(self) -> Cost:
        """Two numbers in and a gradient in fp32, two out."""
        return Cost((2 * 2 + 4 + 2 * 2) * self.tokens * self.heads, 0)


@dataclass(frozen=True, kw_only=True)
class Discretize(Case):
    """``u [t, h, p], dt [t, h], bias [h]``: inputs of Mamba-2 times steps; decays are dropped."""

    operation = "discretize"
    heads: int
    width: int

    @property
    def sizes(self) -> str:
        """Heads a token, and their width."""
        return f"{self.heads} of {self.width}"

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Parameters in fp32."""
        u = normal(generator, self.tokens, self.heads, self.width)
        dt, bias = normal(generator, self.tokens, self.heads), normal(generator, self.heads)
        return u, dt, bias.float() - 4

    def expected(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> Tensor:
        """The definition."""
        del layout
        u, dt, bias = inputs
        return reference.discretize(u, dt, bias, torch.zeros_like(bias))[0]

    def forward(self) -> Cost:
        """``u`` and ``dt`` in, scaled ``u`` and decays in fp32 out."""
        return Cost(self.tokens * self.heads * (4 * self.width + 2 + 4), 0)

    def backward(self) -> Cost:
        """``u``, ``dt`` and both gradients in, two out."""
        return Cost(self.tokens * self.heads * (6 * self.width + 4 + 4), 0)


@dataclass(frozen=True, kw_only=True)
class NormThenGate(Case):
    """``x, gate [t, h, d], weight [d]``: the norm of Gated DeltaNet."""

    operation = "norm_then_gate"
    heads: int
    width: int

    @property
    def sizes(self) -> str:
        """Norms a token, and their width."""
        return f"{self.heads} of {self.width}"

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Weights in fp32."""
        x, gate = (normal(generator, self.tokens, self.heads, self.width) for _ in "xg")
        return x, gate, 1 + normal(generator, *self.weight).float() / 4

    @property
    def weight(self) -> tuple[int, ...]:
        """Its shape."""
        return (self.width,)

    def expected(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> Tensor:
        """Each line of the definition."""
        del layout
        x, gate, weight = inputs
        return reference.norm_then_gate(x, gate, weight, EPS)

    def forward(self) -> Cost:
        """``x`` and the gate in, ``y`` out."""
        return Cost(3 * 2 * self.tokens * self.heads * self.width, 0)

    def backward(self) -> Cost:
        """``x``, the gate and ``dy`` in, two gradients out."""
        return Cost(5 * 2 * self.tokens * self.heads * self.width, 0)


@dataclass(frozen=True, kw_only=True)
class GateThenNorm(NormThenGate):
    """``x, gate [t, g, d], weight [g * d]``: the norm of Mamba-2."""

    operation = "gate_then_norm"

    @property
    def weight(self) -> tuple[int, ...]:
        """Of all groups."""
        return (self.heads * self.width,)

    def expected(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> Tensor:
        """Each line of the definition."""
        del layout
        x, gate, weight = inputs
        return reference.gate_then_norm(x, gate, weight, EPS)


@dataclass(frozen=True, kw_only=True)
class L2Norm(Case):
    """``x [t, g, d]``: queries or keys of Gated DeltaNet."""

    operation = "l2_norm"
    heads: int
    width: int

    @property
    def sizes(self) -> str:
        """Norms a token, and their width."""
        return f"{self.heads} of {self.width}"

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """One input."""
        return (normal(generator, self.tokens, self.heads, self.width),)

    def expected(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> Tensor:
        """The definition."""
        del layout
        return reference.l2_norm(inputs[0])

    def forward(self) -> Cost:
        """``x`` in, ``y`` out."""
        return Cost(2 * 2 * self.tokens * self.heads * self.width, 0)

    def backward(self) -> Cost:
        """``x`` and ``dy`` in, ``dx`` out."""
        return Cost(3 * 2 * self.tokens * self.heads * self.width, 0)


@dataclass(frozen=True, kw_only=True)
class RmsNorm(Case):
    """``x [t, d], weight [d]``: the norm of the stream."""

    operation = "rms_norm"
    width: int

    @property
    def sizes(self) -> str:
        """Numbers of a row."""
        return f"rows of {self.width}"

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Weights in fp32."""
        weight = 1 + normal(generator, self.width).float() / 4
        return normal(generator, self.tokens, self.width), weight

    def expected(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> Tensor:
        """The definition."""
        del layout
        x, weight = inputs
        return reference.rms_norm(x, weight, EPS)

    def forward(self) -> Cost:
        """``x`` in, ``y`` out."""
        return Cost(2 * 2 * self.tokens * self.width, 0)

    def backward(self) -> Cost:
        """``x`` and ``dy`` in, ``dx`` out."""
        return Cost(3 * 2 * self.tokens * self.width, 0)


@dataclass(frozen=True, kw_only=True)
class AddNorm(RmsNorm):
    """``x, added [t, d], weight [d]``: the stream and the norm of it, as one sum."""

    operation = "add_norm"

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Weights in fp32."""
        x, weight = super().draw(generator)
        return x, normal(generator, self.tokens, self.width), weight

    def expected(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> Tensor:
        """The definition; both outputs as one sum, as a block has them after its MLP."""
        del layout
        x, added, weight = inputs
        return torch.add(*reference.add_norm(x, added, weight, EPS))

    def forward(self) -> Cost:
        """Two numbers in, two out, and their sum."""
        return Cost((4 + 3) * 2 * self.tokens * self.width, 0)

    def backward(self) -> Cost:
        """The stream and a gradient, of both outputs, in, one out, of both inputs."""
        return Cost(3 * 2 * self.tokens * self.width, 0)


@dataclass(frozen=True, kw_only=True)
class SwiGlu(Case):
    """``gate_up [t, 2 h]``: what an MLP does between its projections."""

    operation = "swiglu"
    width: int

    @property
    def sizes(self) -> str:
        """Numbers of an output."""
        return f"{self.width} of two"

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """One input."""
        return (normal(generator, self.tokens, 2 * self.width),)

    def expected(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> Tensor:
        """The definition."""
        del layout
        return reference.swiglu(inputs[0])

    def forward(self) -> Cost:
        """Two numbers in, one out."""
        return Cost(3 * 2 * self.tokens * self.width, 0)

    def backward(self) -> Cost:
        """Two and a gradient in, two out."""
        return Cost(5 * 2 * self.tokens * self.width, 0)


@dataclass(frozen=True, kw_only=True)
class Rotary(L2Norm):
    """``x [t, h, d]``: queries or keys of attention, whole heads turned."""

    operation = "rotary"

    def tables(self, layout: SequenceLayout) -> tuple[Tensor, Tensor]:
        """``cos, sin [t, 1, d / 2]`` fp32."""
        return angles(layout, of=frequencies(self.width, 1e5))

    def expected(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> Tensor:
        """The definition."""
        return reference.rotate(inputs[0], *self.tables(layout))

    def forward(self) -> Cost:
        """``x`` and the tables in, ``y`` out."""
        return Cost(4 * self.tokens * (self.heads + 1) * self.width, 0)

    def backward(self) -> Cost:
        """``dy`` and the tables in, ``dx`` out."""
        return self.forward()
