"""Gated delta rule, chunked: ``S_t = e^(g_t) (I - beta_t k_t k_t^T) S_(t-1) + beta_t k_t v_t^T``,
``o_t = S_t^T q_t``.

Yang et al. 2025 (arXiv 2412.06464), section 3.3, in the WY form, with documents exact inside chunks
and a hand-written backward. In a chunk, with ``*`` element-wise and the factors of ``Decays``:

    A = tril(beta (K K^T * between), -1)     T = (I + A)^-1     P = Q K^T * between
    [u | w] = T [beta V | beta inflow K]     written = u - w S
    out = inflow Q S + P written             S' = carry S + (outflow K)^T written
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lmtrain.ops.recurrence import AffineState, ChunkGrid, Decays

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout

CHUNK = 64
BASE = 16


class GatedDelta:
    """The recurrence of Gated DeltaNet.

    Inputs ``q [t, g, k], k [t, g, k], v [t, h, v], decay [t, h], beta [t, h]``: ``decay`` is the log
    decay (<= 0), ``beta`` in [0, 2] with keys of norm <= 1. Each of the ``g`` key heads serves
    ``h / g`` consecutive value heads.
    """

    def scan(
        self, inputs: tuple[Tensor, ...], layout: SequenceLayout, initial: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Outputs ``[t, h, v]`` in the dtype of ``v``, and the final state ``[h, k, v]``."""
        return _Scan.apply(*inputs, initial, layout.derive(ChunkGrid.build, CHUNK))  # type: ignore[return-value]

    def summarize(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> AffineState:
        """Transition ``[h, k, k]`` and state ``[h, k, v]`` of the span.

        The transition is the final state of the same scan from the identity with nothing written.
        """
        q, k, v, decay, beta = inputs
        state = self.scan(inputs, layout)[1]
        eye = torch.eye(k.shape[2], dtype=state.dtype, device=state.device)
        eye = eye.expand(v.shape[1], -1, -1)
        if not layout.continues or len(layout.lengths) > 1:
            return AffineState(torch.zeros_like(eye), state)
        nothing = v.new_zeros(*v.shape[:2], k.shape[2])
        return AffineState(self.scan((q, k, nothing, decay, beta), layout, eye)[1], state)

    def step(self, inputs: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
        """One token: ``q, k [g, k], v [h, v], decay, beta [h]``."""
        q, k, v, decay, beta = (x.to(state.dtype) for x in inputs)
        shared = state.shape[0] // q.shape[0]
        q, k = (x.repeat_interleave(shared, 0) for x in (q, k))
        state = decay.exp()[:, None, None] * state
        read = (k[:, None, :] @ state).squeeze(1)
        state = state + k[:, :, None] * (beta[:, None] * (v - read))[:, None, :]
        return (q[:, None, :] @ state).squeeze(1), state


def inverse(A: Tensor) -> Tensor:
    """``(I + A)^-1`` of strictly lower triangular ``A [..., c, c]``.

    Diagonal blocks by substitution, then merged in pairs. A product form ``Π (I + A^(2^i))`` would
    need no substitution, but its powers overflow the precision when keys are alike and beta is near
    2, where the inverse itself is small.
    """
    *batch, size, _ = A.shape
    block = min(BASE, size)
    blocks = _diagonal(A, block).contiguous()
    eye = torch.eye(block, dtype=A.dtype, device=A.device).expand_as(blocks).contiguous()
    out = A.new_zeros(*batch, size, size)
    solved = torch.linalg.solve_triangular(blocks, eye, upper=False, unitriangular=True)
    _diagonal(out, block).copy_(solved)
    while block < size:
        pairs, source = _diagonal(out, 2 * block), _diagonal(A, 2 * block)
        upper, lower = pairs[..., :block, :block], pairs[..., block:, block:]
        pairs[..., block:, :block] = -(lower @ (source[..., block:, :block] @ upper))
        block *= 2
    return out


def _diagonal(x: Tensor, block: int) -> Tensor:
    """``[..., c / block, block, block]`` view of the diagonal blocks of ``[..., c, c]``."""
    count = x.shape[-1] // block
    x = x.unflatten(-1, (count, block)).unflatten(-3, (count, block))
    return x.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


class _Scan(torch.autograd.Function):
    """Chunk axes: n chunks, x rows times key heads, r value heads of a key head, c tokens."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        decay: Tensor,
        beta: Tensor,
        initial: Tensor | None,
        grid: ChunkGrid,
    ) -> tuple[Tensor, Tensor]:
        groups, heads = q.shape[1], v.shape[1] // q.shape[1]
        Q, K, V = (grid.split(x, groups) for x in (q, k, v))
        g, b = (grid.split(x[:, :, None], groups) for x in (decay, beta))
        d = Decays.of(g, grid)
        similar = (K @ K.mT) * d.between
        T = inverse((b * similar).tril(-1))
        u, w = (T @ torch.cat([b * V, (b * d.inflow) * K], -1)).split(
            [v.shape[2], k.shape[2]], -1
        )
        Kout = d.outflow * K
        state = grid.enter(initial, V, (groups, heads, k.shape[2], v.shape[2]))
        states = V.new_empty(grid.chunks, *state.shape)
        written = torch.empty_like(u)
        for n in range(grid.chunks):
            states[n] = state
            written[n] = u[n] - w[n] @ state
            state = d.carry[n] * state + Kout[n].mT @ written[n]
        P = (Q @ K.mT) * d.between
        out = d.inflow * (Q @ states) + P @ written
        ctx.save_for_backward(q, k, v, decay, beta, T, u, w, written, states, state)
        ctx.grid, ctx.initial = grid, initial is not None
        return grid.join(out).to(v.dtype), grid.leave(state, groups)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, d_final: Tensor) -> tuple[Any, ...]:
        q, k, v, decay, beta, T, u, w, written, states, last = ctx.saved_tensors
        grid: ChunkGrid = ctx.grid
        groups, heads, key_dim = q.shape[1], v.shape[1] // q.shape[1], k.shape[2]
        Q, K, V, dO = (grid.split(x, groups) for x in (q, k, v, d_out))
        g, b = (grid.split(x[:, :, None], groups) for x in (decay, beta))
        d = Decays.of(g, grid)
        similar, P = (K @ K.mT) * d.between, (Q @ K.mT) * d.between
        Kout, dO_in = d.outflow * K, d.inflow * dO

        # state recurrence backward in time; d_states[n] is what leaves chunk n
        d_state = torch.zeros_like(last)
        d_state[-groups:] = d_final.unflatten(0, (groups, heads))
        d_states, d_written = torch.empty_like(states), P.mT @ dO
        read = Q.mT @ dO_in
        for n in reversed(range(grid.chunks)):
            d_states[n] = d_state
            d_written[n] += Kout[n] @ d_state
            d_state = d.carry[n] * d_state + read[n] - w[n].mT @ d_written[n]

        dP = dO @ written.mT
        d_solved = torch.cat([d_written, -(d_written @ states.mT)], -1)
        d_mixed = T.mT @ d_solved
        dA = -(d_mixed @ torch.cat([u, w], -1).mT).tril(-1)
        d_bV, d_bK = d_mixed.split([v.shape[2], key_dim], -1)
        d_bK = d.inflow * d_bK

        dQin = d.inflow * (dO @ states.mT)
        dKout = d.outflow * (written @ d_states.mT)
        d_scores, d_similar = (dP * d.between).sum(2, True), (b * dA * d.between).sum(2, True)
        dQ = d_scores @ K + dQin.sum(2, True)
        dK = d_scores.mT @ Q + (d_similar + d_similar.mT) @ K + (b * d_bK + dKout).sum(2, True)
        dV = b * d_bV
        d_beta = (dA * similar).sum(-1, True) + (d_bV * V).sum(-1, True)
        from_key = (d_bK * K).sum(-1, True)
        d_beta += from_key

        leaving = torch.cat([states[1:], last[None]])
        paired = (b * dA) * similar + dP * P
        d_total = paired.sum(-1, True) - paired.sum(-2)[..., None]
        d_total += b * from_key + (dQin * Q).sum(-1, True) - (dKout * K).sum(-1, True)
        d_total[..., -1:, :] += (leaving * d_states).sum((-2, -1))[..., None, None]
        d_decay = grid.cumulate_grad(d_total)

        grads = [grid.join(x) for x in (dQ, dK, dV)]
        grads += [grid.join(x).squeeze(-1) for x in (d_decay, d_beta)]
        grads = [x.to(y.dtype) for x, y in zip(grads, (q, k, v, decay, beta), strict=True)]
        d_initial = None
        if ctx.initial:
            first = d_state[:groups].flatten(0, 1)
            d_initial = first if grid.continues else torch.zeros_like(first)
        return *grads, d_initial, None
