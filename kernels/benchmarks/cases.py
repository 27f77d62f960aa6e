"""What is measured: an operation, its sizes and documents, and the least that it costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F

from lmtrain.layout import SequenceLayout
from lmtrain.ops import reference
from lmtrain.ops.rotary import angles, frequencies

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
        return reference.short_conv(*inputs, layout=layout)

    def forward(self) -> Cost:
        """``x`` in, ``y`` out."""
        return Cost(2 * 2 * self.tokens * self.channels, 0)

    def backward(self) -> Cost:
        """``x`` and ``dy`` in, ``dx`` out."""
        return Cost(3 * 2 * self.tokens * self.channels, 0)


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
class Rotary(Case):
    """``x [t, h, d]``: queries or keys of attention, whole heads turned."""

    operation = "rotary"
    heads: int
    width: int

    @property
    def sizes(self) -> str:
        """Heads and their width."""
        return f"{self.heads} of {self.width}"

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """One input."""
        return (normal(generator, self.tokens, self.heads, self.width),)

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
    NormThenGate(lengths=(8192,), heads=32, width=128),
    NormThenGate(lengths=(32_768,), heads=32, width=128),
    GateThenNorm(lengths=(8192,), heads=1, width=4096),
    GateThenNorm(lengths=(32_768,), heads=1, width=4096),
    L2Norm(lengths=(32_768,), heads=16, width=128),
    RmsNorm(lengths=(8192,), width=1024),
    RmsNorm(lengths=(32_768,), width=2048),
    SwiGlu(lengths=(8192,), width=2816),
    SwiGlu(lengths=(32_768,), width=5632),
    Rotary(lengths=(32_768,), heads=16, width=128),
)
"""What the kernels are judged by."""

SMOKE: tuple[Case, ...] = (
    GatedDelta(lengths=(70, 3), groups=1, heads=2, width=32),
    Ssd(lengths=(70, 3), groups=1, heads=2, key=32, value=32),
    ShortConv(lengths=(70, 3), channels=48),
    NormThenGate(lengths=(20,), heads=2, width=32),
    GateThenNorm(lengths=(20,), heads=1, width=96),
    L2Norm(lengths=(20,), heads=2, width=32),
    RmsNorm(lengths=(20,), width=96),
    SwiGlu(lengths=(20,), width=48),
    Rotary(lengths=(20, 7), heads=2, width=32),
)
"""One of each, small enough for Triton's interpreter."""
