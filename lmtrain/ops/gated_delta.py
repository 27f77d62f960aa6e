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

    Inputs ``q, k [t, g, k], v [t, h, v], decay, beta [t, h]``: ``decay`` is the log decay (<= 0),
    ``beta`` lies in [0, 2] and keys have at most norm 1. Each of the ``g`` key heads serves
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
        similar, P = (K @ K.mT) * d.between, (Q @ K.mT) * d.between
        T = inverse((b * similar).tril_(-1))
        mixed = V.new_empty(*V.shape[:-1], v.shape[2] + k.shape[2])
        torch.mul(b, V, out=mixed[..., : v.shape[2]])
        torch.mul(b * d.inflow, K, out=mixed[..., v.shape[2] :])
        solved = T @ mixed
        u, w = _flat(solved).split([v.shape[2], k.shape[2]], -1)
        Kout, carry = _flat(d.outflow * K), _flat(d.carry)
        entering = grid.enter(initial, V, (groups, heads, k.shape[2], v.shape[2]))
        states = V.new_empty(grid.chunks + 1, len(u[0]), k.shape[2], v.shape[2])
        states[0] = entering.flatten(0, 1)
        written = torch.empty_like(u, memory_format=torch.contiguous_format)
        for n in range(grid.chunks):
            torch.baddbmm(u[n], w[n], states[n], alpha=-1, out=written[n])
            torch.mul(carry[n], states[n], out=states[n + 1])
            states[n + 1].baddbmm_(Kout[n].mT, written[n])
        written, states = (x.unflatten(1, V.shape[1:3]) for x in (written, states))
        out = (Q @ states[:-1]).mul_(d.inflow) + P @ written
        ctx.save_for_backward(q, k, v, decay, beta, T, solved, written, states)
        ctx.grid, ctx.initial = grid, initial is not None
        return grid.join(out).to(v.dtype), grid.leave(states[-1], groups)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, d_final: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, decay, beta, T, solved, written, states = ctx.saved_tensors
        grid: ChunkGrid = ctx.grid
        groups, heads, key_dim = q.shape[1], v.shape[1] // q.shape[1], k.shape[2]
        Q, K, V, dO = (grid.split(x, groups) for x in (q, k, v, d_out))
        g, b = (grid.split(x[:, :, None], groups) for x in (decay, beta))
        d = Decays.of(g, grid)
        similar, P = (K @ K.mT) * d.between, (Q @ K.mT) * d.between
        Kout, carry, w = _flat(d.outflow * K), _flat(d.carry), _flat(solved)[..., v.shape[2] :]

        # backward in time; d_states[n] belongs to the state that enters chunk n
        d_written = _flat(P.mT @ dO)
        read = _flat(Q.mT @ (d.inflow * dO))
        d_states = read.new_zeros(grid.chunks + 1, *read.shape[1:])
        d_states[-1, -groups * heads :] = d_final
        for n in reversed(range(grid.chunks)):
            d_written[n].baddbmm_(Kout[n], d_states[n + 1])
            torch.addcmul(read[n], carry[n], d_states[n + 1], out=d_states[n])
            d_states[n].baddbmm_(w[n].mT, d_written[n], alpha=-1)
        d_written, d_states = (x.unflatten(1, V.shape[1:3]) for x in (d_written, d_states))

        dP = dO @ written.mT
        d_solved = torch.cat([d_written, -(d_written @ states[:-1].mT)], -1)
        d_mixed = T.mT @ d_solved
        dA = -(d_mixed @ solved.mT).tril_(-1)
        d_bV, d_bK = d_mixed.split([v.shape[2], key_dim], -1)
        d_bK = d.inflow * d_bK

        dQin = d.inflow * (dO @ states[:-1].mT)
        dKout = d.outflow * (written @ d_states[1:].mT)
        d_scores, d_similar = (dP * d.between).sum(2, True), (b * dA * d.between).sum(2, True)
        dQ = d_scores @ K + dQin.sum(2, True)
        dK = d_scores.mT @ Q + (d_similar + d_similar.mT) @ K + (b * d_bK + dKout).sum(2, True)
        dV = b * d_bV
        from_key = (d_bK * K).sum(-1, True)
        dA, dP = dA * similar, dP * P  # gradients of the logarithms of both, but for beta
        d_beta = dA.sum(-1, True) + (d_bV * V).sum(-1, True) + from_key

        # log e^(G_i - G_j) is linear in G: a query adds what it takes, a key gives it back
        paired = torch.addcmul(dP, b, dA)
        d_total = paired.sum(-1, True) - paired.sum(-2)[..., None]
        d_total += b * from_key + (dQin * Q).sum(-1, True) - (dKout * K).sum(-1, True)
        d_total[..., -1:, :] += (states[1:] * d_states[1:]).sum((-2, -1))[..., None, None]
        d_decay = grid.cumulate_grad(d_total)

        grads = [grid.join(x) for x in (dQ, dK, dV)]
        grads += [grid.join(x).squeeze(-1) for x in (d_decay, d_beta)]
        grads = [x.to(y.dtype) for x, y in zip(grads, (q, k, v, decay, beta), strict=True)]
        d_initial = None
        if ctx.initial:
            first = d_states[0, :groups].flatten(0, 1)
            d_initial = first * grid.continues
        return *grads, d_initial, None


def _flat(x: Tensor) -> Tensor:
    """``[n, x, r, …]`` to ``[n, x * r, …]``."""
    return x.flatten(1, 2)
