"""Gated DeltaNet (``G``): a memory that decays, and is corrected by the delta rule.

Yang et al. 2025, arXiv 2412.06464; ``beta_scale = 2`` allows negative eigenvalues (Grazzi et al.
2025, arXiv 2411.12537).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from lmtrain.models.layers import Linear, RMSNorm
from lmtrain.models.mixers.base import RecurrentState, advance, convolve_next, scan
from lmtrain.ops.backend import TORCH
from lmtrain.ops.conv import short_conv
from lmtrain.ops.kernel import Sizes

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout
    from lmtrain.models.config import GatedDeltaNetConfig, NormConfig
    from lmtrain.ops.backend import Operations
    from lmtrain.ops.kernel import Convolve, Kernel


class GatedDeltaNet(nn.Module):
    """``q, k, v`` through one short convolution, a decay and a beta a value head, a gated norm."""

    def __init__(self, config: GatedDeltaNetConfig, d_model: int, norm: NormConfig) -> None:
        super().__init__()
        self.config = config
        keys, values = config.key_heads * config.key_dim, config.value_heads * config.value_dim
        self.channels = [keys, keys, values]
        self.in_proj = Linear(d_model, sum(self.channels) + values + 2 * config.value_heads)
        self.conv_weight = nn.Parameter(torch.empty(config.conv_width, sum(self.channels)))
        self.dt_bias = nn.Parameter(torch.empty(config.value_heads))
        self.A_log = nn.Parameter(torch.empty(config.value_heads))
        self.norm = RMSNorm(config.value_dim, eps=norm.eps)
        self.out_proj = Linear(values, d_model)
        self.use(TORCH)

    def use(self, operations: Operations) -> None:
        """Compute with these operations; a strategy may take the place of ``kernel`` later."""
        self.rule = operations.gated_delta
        self.kernel: Kernel = partial(scan, self.rule)
        self.convolve: Convolve = operations.short_conv
        self.gates, self.l2_norm = operations.delta_gates, operations.l2_norm
        self.norm_then_gate = operations.norm_then_gate

    def sizes(self) -> Sizes:
        """What its operations are called with."""
        c = self.config
        return Sizes(
            "gated_delta", c.key_heads, c.value_heads, c.key_dim, c.value_dim, c.conv_width
        )

    def forward(self, x: Tensor, layout: SequenceLayout) -> Tensor:
        """``[t, d]`` in and out."""
        qkv, gate, beta, dt = self._project(x)
        q, k, v = self.convolve(qkv, self.conv_weight, None, self.channels, layout=layout)
        return self._finish(self.kernel(*self._inputs(q, k, v, beta, dt), layout=layout), gate)

    def initial_state(self) -> RecurrentState:
        """No tokens yet."""
        return RecurrentState()

    def extend(
        self, x: Tensor, layout: SequenceLayout, state: RecurrentState
    ) -> tuple[Tensor, RecurrentState]:
        """The next tokens of one document."""
        qkv, gate, beta, dt = self._project(x)
        (q, k, v), tail = convolve_next(
            short_conv, qkv, self.conv_weight, None, self.channels, layout, state.tail
        )
        inputs = self._inputs(q, k, v, beta, dt)
        out, matrix = advance(self.rule, *inputs, layout=layout, state=state.matrix)
        return self._finish(out, gate), RecurrentState(tail, matrix)

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        heads = self.config.value_heads
        return self.in_proj(x).split([sum(self.channels), self.channels[2], heads, heads], -1)

    def _inputs(
        self, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, dt: Tensor
    ) -> tuple[Tensor, ...]:
        """``q, k [t, g, k], v [t, h, v]``, log decay and beta ``[t, h]``."""
        c = self.config
        heads = c.key_heads, c.key_heads, c.value_heads
        q, k, v = (y.unflatten(-1, (n, -1)) for y, n in zip((q, k, v), heads, strict=True))
        decay, beta = self.gates(dt, beta, self.dt_bias, self.A_log, c.beta_scale)
        return self.l2_norm(q, c.key_dim**-0.5), self.l2_norm(k), v, decay, beta

    def _finish(self, heads: Tensor, gate: Tensor) -> Tensor:
        """Norm each head, then gate (the norm comes before the gate)."""
        gate = gate.unflatten(-1, (self.config.value_heads, -1))
        out = self.norm_then_gate(heads, gate, self.norm.weight, self.norm.eps)
        return self.out_proj(out.flatten(-2))
