"""Mamba-2 (``M``): a gated state space with one scalar decay a head.

Dao and Gu 2024, arXiv 2405.21060, section 7.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from lmtrain.models.layers import Linear
from lmtrain.models.mixers.base import RecurrentState, advance, convolve_next, scan
from lmtrain.ops.backend import TORCH
from lmtrain.ops.conv import short_conv
from lmtrain.ops.kernel import Sizes
from lmtrain.ops.norm import add_skip

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout
    from lmtrain.models.config import Mamba2Config, NormConfig
    from lmtrain.ops.backend import Operations
    from lmtrain.ops.kernel import Convolve, Kernel


class Mamba2(nn.Module):
    """``z, x, B, C, dt`` from one projection; ``S = e^(dt A) S + dt x B^T``; ``y = S C + D x``."""

    def __init__(self, config: Mamba2Config, d_model: int, norm: NormConfig) -> None:
        super().__init__()
        self.config, self.eps = config, norm.eps
        self.heads, self.inner = config.heads(d_model), config.width(d_model)
        shared = config.groups * config.state_dim
        self.channels = [self.inner, shared, shared]
        self.in_proj = Linear(d_model, self.inner + sum(self.channels) + self.heads)
        self.conv_weight = nn.Parameter(torch.empty(config.conv_width, sum(self.channels)))
        self.conv_bias = nn.Parameter(torch.empty(sum(self.channels))) if config.conv_bias else None
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.empty(self.heads))
        self.norm_weight = nn.Parameter(torch.empty(self.inner)) if config.norm else None
        self.out_proj = Linear(self.inner, d_model)
        self.use(TORCH)

    def use(self, operations: Operations) -> None:
        """Compute with these operations; a strategy may take the place of ``kernel`` later."""
        self.rule = operations.ssd
        self.kernel: Kernel = partial(scan, self.rule)
        self.convolve: Convolve = operations.short_conv
        self.discretize = operations.discretize
        self.gate_then_norm = operations.gate_then_norm

    def sizes(self) -> Sizes:
        """What its operations are called with."""
        c = self.config
        width = self.inner // self.heads
        return Sizes("ssd", c.groups, self.heads, c.state_dim, width, c.conv_width, c.norm)

    def forward(self, x: Tensor, layout: SequenceLayout) -> Tensor:
        """``[t, d]`` in and out."""
        gate, xBC, dt = self._project(x)
        weight, bias = self.conv_weight, self.conv_bias
        u, B, C = self.convolve(xBC, weight, bias, self.channels, layout=layout)
        u, inputs = self._inputs(u, B, C, dt)
        return self._finish(self.kernel(*inputs, layout=layout), u, gate)

    def initial_state(self) -> RecurrentState:
        """No tokens yet."""
        return RecurrentState()

    def extend(
        self, x: Tensor, layout: SequenceLayout, state: RecurrentState
    ) -> tuple[Tensor, RecurrentState]:
        """The next tokens of one document."""
        gate, xBC, dt = self._project(x)
        weight, bias = self.conv_weight, self.conv_bias
        (u, B, C), tail = convolve_next(
            short_conv, xBC, weight, bias, self.channels, layout, state.tail
        )
        u, inputs = self._inputs(u, B, C, dt)
        out, matrix = advance(self.rule, *inputs, layout=layout, state=state.matrix)
        return self._finish(out, u, gate), RecurrentState(tail, matrix)

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.in_proj(x).split([self.inner, sum(self.channels), self.heads], -1)

    def _inputs(
        self, u: Tensor, B: Tensor, C: Tensor, dt: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The heads ``u [t, h, p]``, and ``C, B, dt u, dt A`` for the recurrence."""
        u = u.unflatten(-1, (self.heads, -1))
        B, C = (y.unflatten(-1, (self.config.groups, -1)) for y in (B, C))
        scaled, decay = self.discretize(u, dt, self.dt_bias, self.A_log)
        return u, (C, B, scaled, decay)

    def _finish(self, y: Tensor, u: Tensor, gate: Tensor) -> Tensor:
        """Skip, gate, then norm over each group if there is one (the gate comes before it)."""
        groups = self.config.groups
        y, u, gate = (x.flatten(1).unflatten(1, (groups, -1)) for x in (y, u, gate))
        if self.norm_weight is None:
            y = add_skip(y, (u, self.D)) * F.silu(gate)
        else:
            y = self.gate_then_norm(y, gate, self.norm_weight, self.eps, (u, self.D))
        return self.out_proj(y.flatten(-2))
