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


class _Scan(torch.autograd.Function):
    """Chunk axes: n chunks, x rows times groups, c tokens, r heads of a group.

    Heads of a group share keys and queries, so what meets the state keeps them side by side
    (``[n, x, c, r * v]``, the order of the inputs): one large product instead of ``r`` small ones.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, initial: Any, grid: ChunkGrid
    ) -> tuple[Tensor, Tensor]:
        groups, (heads, width) = q.shape[1], (v.shape[1] // q.shape[1], v.shape[2])
        Q, K = (grid.split(x, groups).squeeze(2) for x in (q, k))
        V, d = grid.split_wide(v, groups), _decays(decay, grid, groups)
        added = K.mT @ (V * d.outflow.transpose(2, 3)).flatten(3)
        states = added.new_empty(grid.chunks + 1, *added.shape[1:])
        entering = grid.enter(initial, V, (groups, heads, q.shape[2], width))
        states[0] = entering.transpose(1, 2).flatten(2)
        carry = _per_column(d.carry, width)
        for n in range(grid.chunks):
            torch.addcmul(added[n], carry[n], states[n], out=states[n + 1])
        out = (Q @ states[:-1]).unflatten(3, (heads, width)).mul_(d.inflow.transpose(2, 3))
        out += (_scores(Q, K, d) @ V.transpose(2, 3)).transpose(2, 3)
        ctx.save_for_backward(q, k, v, decay, states, out)
        ctx.grid, ctx.initial = grid, initial is not None
        final = states[-1].unflatten(2, (heads, width)).transpose(1, 2)
        return grid.join_wide(out).to(v.dtype), grid.leave(final, groups)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, d_final: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, decay, states, out = ctx.saved_tensors
        grid: ChunkGrid = ctx.grid
        groups, (heads, width) = q.shape[1], (v.shape[1] // q.shape[1], v.shape[2])
        Q, K = (grid.split(x, groups).squeeze(2) for x in (q, k))
        V, dO = (grid.split_wide(x, groups) for x in (v, d_out))
        d = _decays(decay, grid, groups)

        dO_in = (dO * d.inflow.transpose(2, 3)).flatten(3)
        read = Q.mT @ dO_in
        d_states = torch.zeros_like(states)  # d_states[n] belongs to what enters chunk n
        d_states[-1, -groups:] = d_final.unflatten(0, (groups, heads)).transpose(1, 2).flatten(2)
        carry = _per_column(d.carry, width)
        for n in reversed(range(grid.chunks)):
            torch.addcmul(read[n], carry[n], d_states[n + 1], out=d_states[n])

        narrow_dO = dO.transpose(2, 3).contiguous()
        d_scores = (narrow_dO @ V.transpose(2, 3).mT).mul_(d.between).sum(2)
        dV = (K @ d_states[1:]).unflatten(3, (heads, width)).mul_(d.outflow.transpose(2, 3))
        dV += (_scores(Q, K, d).mT @ narrow_dO).transpose(2, 3)
        dQ = d_scores @ K + dO_in @ states[:-1].mT
        V_out = (V * d.outflow.transpose(2, 3)).flatten(3)
        dK = d_scores.mT @ Q + V_out @ d_states[1:].mT

        # log e^(G_i - G_j) is linear in G: a query adds what it takes, a key gives it back
        d_total = torch.addcmul(dO * out, V, dV, value=-1).sum(-1).mT[..., None]
        kept = (states[1:] * d_states[1:]).unflatten(3, (heads, width)).sum((2, 4))
        d_total[..., -1, 0] += kept
        d_decay = grid.join(grid.cumulate_grad(d_total)).squeeze(-1)

        d_initial = None
        if ctx.initial:
            first = d_states[0, :groups].unflatten(2, (heads, width)).transpose(1, 2)
            d_initial = first.flatten(0, 1) * grid.continues
        dQ, dK = (grid.join(x[:, :, None]) for x in (dQ, dK))
        grads = (dQ, dK, grid.join_wide(dV), d_decay)
        grads = (x.to(y.dtype) for x, y in zip(grads, (q, k, v, decay), strict=True))
        return *grads, d_initial, None


def _decays(decay: Tensor, grid: ChunkGrid, groups: int) -> Decays:
    """The decay factors of log decays ``[t, h]``."""
    return Decays.of(grid.split(decay[:, :, None], groups), grid)


def _scores(Q: Tensor, K: Tensor, d: Decays) -> Tensor:
    """``[n, x, r, c, c]``: what each token takes from those before it in the chunk."""
    return (Q @ K.mT)[:, :, None] * d.between


def _per_column(carry: Tensor, width: int) -> Tensor:
    """``[n, x, r, 1, 1]`` carries to ``[n, x, 1, r * width]``, one for each column of a state."""
    return carry.squeeze(-1).expand(-1, -1, -1, width).flatten(2)[:, :, None]
