"""Softmax attention, over the document (``A``) or over a sliding window of it (``W``)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from lmtrain.models.config import SlidingWindowConfig
from lmtrain.models.layers import Linear, RMSNorm
from lmtrain.models.rope import USED, RopeKind
from lmtrain.ops.attention import attend
from lmtrain.ops.backend import TORCH
from lmtrain.ops.kernel import Width
from lmtrain.ops.rotary import angles, frequencies, interpolated, llama3, yarn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from lmtrain.layout import SequenceLayout
    from lmtrain.models.config import AttentionConfig, NormConfig
    from lmtrain.ops.backend import Operations
    from lmtrain.ops.kernel import Kernel
    from lmtrain.ops.rotary import Frequencies


FORMULAS: dict[RopeKind, Callable[..., Frequencies]] = {
    RopeKind.none: frequencies,
    RopeKind.linear: interpolated,
    RopeKind.yarn: yarn,
    RopeKind.llama3: llama3,
}


class KeyValues(NamedTuple):
    """Keys and values of the tokens so far ``[capacity, g, d]``, of which ``length`` are filled."""

    k: Tensor | None = None
    v: Tensor | None = None
    length: int = 0


class Attention(nn.Module):
    """Grouped-query attention with optional rotary positions, qk-norm and output gate."""

    def __init__(self, config: AttentionConfig, d_model: int, norm: NormConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.width(d_model)
        self.window = config.window if isinstance(config, SlidingWindowConfig) else None
        inner, shared = config.heads * self.head_dim, config.kv_heads * self.head_dim
        self.widths = [inner, shared, shared, inner if config.output_gate else 0]
        self.in_proj = Linear(d_model, sum(self.widths))
        self.out_proj = Linear(inner, d_model)
        q, k = (inner, shared) if config.qk_norm_joint else (self.head_dim, self.head_dim)
        self.q_norm = RMSNorm.of(q, norm) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm.of(k, norm) if config.qk_norm else nn.Identity()
        self.turned = config.rotary_width(d_model)
        self.angles = partial(angles, of=_frequencies(config, self.turned))
        self.use(TORCH)

    def use(self, operations: Operations) -> None:
        """Compute with these operations; a strategy may take the place of ``kernel`` later."""
        self.kernel: Kernel = partial(operations.attend, window=self.window)
        self.rotate = operations.rotate

    def sizes(self) -> Width | None:
        """What rotary positions are called with; attention is torch's own."""
        return Width("rotate", self.head_dim, self.turned) if self.config.rope else None

    def forward(self, x: Tensor, layout: SequenceLayout) -> Tensor:
        """``[t, d]`` in and out."""
        q, k, v, gate = self._project(x, layout)
        return self._finish(self.kernel(q, k, v, layout=layout), gate)

    def initial_state(self) -> KeyValues:
        """An empty cache."""
        return KeyValues()

    def extend(
        self, x: Tensor, layout: SequenceLayout, state: KeyValues
    ) -> tuple[Tensor, KeyValues]:
        """The next tokens of one document; a window keeps only the keys it can still reach."""
        q, k, v, gate = self._project(x, layout)
        state = _append(state, k, v)
        k, v = state.k[: state.length], state.v[: state.length]  # type: ignore[index]
        keys = layout.widened(len(k) - len(x))
        out = attend(q, k, v, layout=layout, keys=keys, window=self.window)
        return self._finish(out, gate), _forget(state, self.window)

    def _project(self, x: Tensor, layout: SequenceLayout) -> tuple[Tensor, ...]:
        """``q [t, h, d], k, v [t, g, d]`` with norms and rotation applied, and the gate."""
        q, k, v, gate = self.in_proj(x).split(self.widths, -1)
        if self.config.qk_norm_joint:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (y.unflatten(-1, (-1, self.head_dim)) for y in (q, k, v))
        if not self.config.qk_norm_joint:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.config.rope:
            tables = self.angles(layout)
            q, k = (self.rotate(y, *tables) for y in (q, k))
        return q, k, v, gate

    def _finish(self, heads: Tensor, gate: Tensor) -> Tensor:
        out = heads.flatten(-2)
        return self.out_proj(out * gate.sigmoid() if self.config.output_gate else out)


def _frequencies(config: AttentionConfig, width: int) -> Frequencies:
    scaling = config.rope_scaling
    settings = {name: getattr(scaling, name) for name in USED[scaling.kind]}
    return FORMULAS[scaling.kind](width, config.rope_theta, **settings)


def _append(state: KeyValues, k: Tensor, v: Tensor) -> KeyValues:
    """Room doubles when it runs out, so that a token costs constant time on average."""
    length = state.length + len(k)
    if state.k is None or state.v is None:
        return KeyValues(k, v, length)
    if length > len(state.k):
        room = (max(length, 2 * len(state.k)) - len(state.k), *k.shape[1:])
        state = KeyValues(
            torch.cat([state.k, k.new_zeros(room)]),
            torch.cat([state.v, v.new_zeros(room)]),
            state.length,
        )
    state.k[state.length : length] = k  # type: ignore[index]
    state.v[state.length : length] = v  # type: ignore[index]
    return KeyValues(state.k, state.v, length)


def _forget(state: KeyValues, window: int | None) -> KeyValues:
    """Drop what no later token of a window can see, once the buffer holds twice that."""
    if window is None or state.length < 2 * window:
        return state
    kept = slice(state.length - window + 1, state.length)
    return KeyValues(state.k[kept].clone(), state.v[kept].clone(), window - 1)  # type: ignore[index]
