"""Scalar-decay recurrence (SSD, Mamba-2), chunked: ``S_t = e^(g_t) S_(t-1) + k_t v_t^T``,
``o_t = S_t^T q_t``.

Dao and Gu 2024 (arXiv 2405.21060), section 6, with documents exact inside chunks and a hand-written
backward that keeps two tensors a token besides the inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lmtrain.ops.recurrence import AffineState, ChunkGrid, Decays

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout

CHUNK = 64


class ScalarDecay:
    """The recurrence of Mamba-2; inputs ``q [t, g, k], k [t, g, k], v [t, h, v], decay [t, h]``.

    ``decay`` is the log decay (<= 0). Each of the ``g`` groups serves ``h / g`` consecutive heads.
    """

    def scan(
        self, inputs: tuple[Tensor, ...], layout: SequenceLayout, initial: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Outputs ``[t, h, v]`` in the dtype of ``v``, and the final state ``[h, k, v]``."""
        q, k, v, decay = inputs
        return _Scan.apply(q, k, v, decay, initial, layout.derive(ChunkGrid.build, CHUNK))  # type: ignore[return-value]

    def summarize(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> AffineState:
        """Transition ``[h]`` and state ``[h, k, v]`` of the span."""
        decay = inputs[3]
        total = decay.to(torch.promote_types(decay.dtype, torch.float32)).sum(0).exp()
        alive = layout.continues and len(layout.lengths) == 1
        return AffineState(total * alive, self.scan(inputs, layout)[1])

    def step(self, inputs: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
        """One token: ``q, k [g, k], v [h, v], decay [h]``."""
        q, k, v, decay = (x.to(state.dtype) for x in inputs)
        shared = state.shape[0] // q.shape[0]
        q, k = (x.repeat_interleave(shared, 0) for x in (q, k))
        state = decay.exp()[:, None, None] * state + k[:, :, None] * v[:, None, :]
        return (q[:, None, :] @ state).squeeze(1), state


def _wide(x: Tensor) -> Tensor:
    """``[n, x, r, c, v]`` to ``[n, x, c, r * v]``: heads of a group side by side, one product."""
    return x.transpose(2, 3).flatten(3)


def _narrow(x: Tensor, heads: int) -> Tensor:
    """The inverse of ``_wide``."""
    return x.unflatten(3, (heads, -1)).transpose(2, 3)


def _per_column(carry: Tensor, width: int) -> Tensor:
    """``[n, x, r, 1, 1]`` carries to ``[n, x, 1, r * width]``, one for each column of a state."""
    return carry.squeeze(-1).expand(-1, -1, -1, width).flatten(2)[:, :, None]


class _Scan(torch.autograd.Function):
    """Chunk axes: n chunks, x rows times groups, r heads of a group, c tokens."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, initial: Any, grid: ChunkGrid
    ) -> tuple[Tensor, Tensor]:
        groups, heads, width = q.shape[1], v.shape[1] // q.shape[1], v.shape[2]
        Q, K = (grid.split(x, groups).squeeze(2) for x in (q, k))
        V, g = grid.split(v, groups), grid.split(decay[:, :, None], groups)
        d = Decays.of(g, grid)
        carry = _per_column(d.carry, width)
        added = K.mT @ _wide(V * d.outflow)
        entering = grid.enter(initial, V, (groups, heads, q.shape[2], width))
        state = entering.transpose(1, 2).flatten(2)
        states = torch.empty_like(added)
        for n in range(grid.chunks):
            states[n] = state
            state = torch.addcmul(added[n], carry[n], state)
        out = ((Q @ K.mT)[:, :, None] * d.between) @ V
        out += _narrow(Q @ states, heads) * d.inflow
        ctx.save_for_backward(q, k, v, decay, states, state, out)
        ctx.grid, ctx.initial = grid, initial is not None
        final = grid.leave(state.unflatten(2, (heads, width)).transpose(1, 2), groups)
        return grid.join(out).to(v.dtype), final

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, d_final: Tensor) -> tuple[Any, ...]:
        q, k, v, decay, states, last, out = ctx.saved_tensors
        grid: ChunkGrid = ctx.grid
        groups, heads, width = q.shape[1], v.shape[1] // q.shape[1], v.shape[2]
        Q, K = (grid.split(x, groups).squeeze(2) for x in (q, k))
        V, dO = grid.split(v, groups), grid.split(d_out, groups)
        d = Decays.of(grid.split(decay[:, :, None], groups), grid)
        carry = _per_column(d.carry, width)

        inflow_dO = _wide(dO * d.inflow)
        d_state = torch.zeros_like(last)
        d_state[-groups:] = d_final.unflatten(0, (groups, heads)).transpose(1, 2).flatten(2)
        d_leaving = Q.mT @ inflow_dO
        for n in reversed(range(grid.chunks)):
            entering = torch.addcmul(d_leaving[n], carry[n], d_state)
            d_leaving[n] = d_state
            d_state = entering

        scores = Q @ K.mT
        d_scores = ((dO @ V.mT) * d.between).sum(2)
        dV = (scores[:, :, None] * d.between).mT @ dO
        dV += _narrow(K @ d_leaving, heads) * d.outflow
        dQ = d_scores @ K + inflow_dO @ states.mT
        dK = d_scores.mT @ Q + _wide(V * d.outflow) @ d_leaving.mT

        # log e^(G_i - G_j) is linear in G: a query adds what it takes, a key gives it back
        leaving = torch.cat([states[1:], last[None]])
        d_total = (dO * out).sum(-1, keepdim=True) - (V * dV).sum(-1, keepdim=True)
        d_total[..., -1:, :] += _narrow(leaving * d_leaving, heads).sum((-2, -1))[..., None, None]
        d_decay = grid.join(grid.cumulate_grad(d_total)).squeeze(-1)

        d_initial = None
        if ctx.initial:
            first = d_state[:groups].unflatten(2, (heads, width)).transpose(1, 2).flatten(0, 1)
            d_initial = first if grid.continues else torch.zeros_like(first)
        dQ, dK = (grid.join(x[:, :, None]) for x in (dQ, dK))
        grads = (dQ, dK, grid.join(dV), d_decay)
        return *(x.to(y.dtype) for x, y in zip(grads, (q, k, v, decay), strict=True)), d_initial, None
