"""What a model calls on tensors indexed by token, and what strategies put in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lmtrain.layout import SequenceLayout


class Kernel(Protocol):
    """A function of token-first, head-second tensors ``[t, h, …]`` to ``[t, h, v]``."""

    def __call__(self, *tensors: Tensor, layout: SequenceLayout) -> Tensor:
        """Run over the span of ``layout``."""
        ...


class Attend(Protocol):
    """Causal softmax attention: ``q [t, h, d], k, v [s, g, d] -> [t, h, d]``."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        layout: SequenceLayout,
        keys: SequenceLayout | None = None,
        window: int | None = None,
    ) -> Tensor:
        """Over the span of ``layout``, and keys of ``keys`` before it."""
        ...


class Convolve(Protocol):
    """A short convolution: ``x [t, c], weight [taps, c], bias [c]`` to parts ``[t, width]``."""

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        widths: Sequence[int],
        *,
        layout: SequenceLayout,
    ) -> tuple[Tensor, ...]:
        """Run over the span of ``layout``; the sum of ``widths`` is ``c``."""
        ...


Skip: TypeAlias = "tuple[Tensor, Tensor]"
"""``u [t, h, d]`` and a scale ``[n]`` of ``n`` equal parts of ``h * d``: ``scale * u`` is added."""


class RmsNorm(Protocol):
    """RMSNorm: ``x [t, d]`` or ``[t, h, d]``, ``weight [d]``, in the dtype of ``x``."""

    def __call__(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Norm over the last dimension."""
        ...


class AddNorm(Protocol):
    """The residual stream ``x [t, d]`` with ``added [t, d]`` or nothing, and its RMSNorm."""

    def __call__(
        self, x: Tensor, added: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """``x + added``, and ``rms_norm`` of it."""
        ...


class SwiGlu(Protocol):
    """``silu(gate) * up``: ``gate_up [t, 2 h] -> [t, h]``, gate first."""

    def __call__(self, gate_up: Tensor) -> Tensor:
        """Of both halves."""
        ...


class Rotate(Protocol):
    """Rotary positions: ``x [t, h, d]`` by ``cos, sin [t, 1, n]``, in the dtype of ``x``."""

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """The first ``2 n`` dimensions of each head turned."""
        ...


class DeltaGates(Protocol):
    """Of Gated DeltaNet: ``dt, beta [t, h], bias, A_log [h]`` to decay and beta ``[t, h]``."""

    def __call__(
        self, dt: Tensor, beta: Tensor, bias: Tensor, A_log: Tensor, scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Decay ``-e^A_log softplus(dt + bias)`` and ``scale sigmoid(beta)``, in at least fp32."""
        ...


class Discretize(Protocol):
    """Of Mamba-2: ``u [t, h, p], dt [t, h], bias, A_log [h] -> [t, h, p], [t, h]``."""

    def __call__(self, u: Tensor, dt: Tensor, bias: Tensor, A_log: Tensor) -> tuple[Tensor, Tensor]:
        """With ``step = softplus(dt + bias)``: ``step u`` and the decay ``-e^A_log step``."""
        ...


class L2Norm(Protocol):
    """``scale * x`` over its norm: ``[t, h, d]``, in the dtype of ``x`` or a wider one."""

    def __call__(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """Norm over the last dimension."""
        ...


class NormThenGate(Protocol):
    """RMSNorm, then a SiLU gate: ``x, gate [t, h, d], weight [d] -> [t, h, d]``."""

    def __call__(self, x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Norm over the last dimension."""
        ...


class GateThenNorm(Protocol):
    """A skip, a SiLU gate, RMSNorm: ``x, gate [t, g, d], weight [g * d] -> [t, g, d]``."""

    def __call__(
        self, x: Tensor, gate: Tensor, weight: Tensor, eps: float, skip: Skip | None = None
    ) -> Tensor:
        """Norm over the last dimension."""
        ...


class Sizes(NamedTuple):
    """What a recurrent mixer calls its operations with."""

    rule: str
    """``gated_delta`` or ``ssd``."""
    groups: int
    """Heads of keys and queries."""
    heads: int
    """Of values."""
    key: int
    value: int
    taps: int
    """Of the short convolution."""
    norm: bool = True
    """Whether a gated norm follows."""


class Width(NamedTuple):
    """What a norm, an MLP or attention calls its operation with."""

    operation: str
    """``rms_norm``, ``add_norm``, ``swiglu`` or ``rotate``."""
    numbers: int
    """Of a normed row, an output or a head."""
    turned: int = 0
    """Of a head, the first ones."""
