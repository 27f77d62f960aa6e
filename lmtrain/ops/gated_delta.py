"""Gated delta rule, chunked: ``S_t = e^(g_t) (I - beta_t k_t k_t^T) S_(t-1) + beta_t k_t v_t^T``,
``o_t = S_t^T q_t``.

Yang et al. 2025 (arXiv 2412.06464), section 3.3, in the WY form, with documents exact inside chunks
and a hand-written backward. In a chunk, with ``*`` element-wise and the factors of ``Decays``:

    A = tril(beta (K K^T * between), -1)     T = (I + A)^-1     P = Q K^T * between
    [u | w] = T [beta V | beta inflow K]     written = u - w S
    out = inflow Q S + P written             S' = carry S + (outflow K)^T written
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from lmtrain.ops.chunks import CHUNK, ChunkGrid, Decays
from lmtrain.ops.recurrence import AffineState, Recurrence

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout

BASE = 16


class _Chunks(NamedTuple):
    """The inputs on the grid: ``Q, K [n, x, 1, c, k]``, ``V [n, x, r, c, v]``, ``b`` like ``d``.

    n chunks, x rows times key heads, r value heads of a key head, c tokens. ``Kout`` and ``carry``
    are flat, ``[n, x * r, …]``, like all that meets the state.
    """

    Q: Tensor
    K: Tensor
    V: Tensor
    b: Tensor
    d: Decays
    Kout: Tensor
    carry: Tensor

    @classmethod
    def of(cls, inputs: tuple[Tensor, ...], grid: ChunkGrid) -> _Chunks:
        """Split ``q, k, v, decay, beta``."""
        q, k, v, decay, beta = inputs
        groups = q.shape[1]
        Q, K, V = (grid.split(x, groups) for x in (q, k, v))
        g, b = (grid.split(x[:, :, None], groups) for x in (decay, beta))
        d = Decays.of(g, grid)
        return cls(Q, K, V, b, d, _flat(d.outflow * K), _flat(d.carry))

    @property
    def scores(self) -> Tensor:
        """``P [n, x, r, c, c]``."""
        return (self.Q @ self.K.mT) * self.d.between

    @property
    def similar(self) -> Tensor:
        """``K K^T * between [n, x, r, c, c]``."""
        return (self.K @ self.K.mT) * self.d.between

    def state(self, grid: ChunkGrid) -> tuple[int, tuple[int, int, int, int]]:
        """How many states a row has, and their shape ``g, r, k, v``."""
        groups, heads = self.K.shape[1] // grid.rows, self.V.shape[2]
        return groups * heads, (groups, heads, self.K.shape[-1], self.V.shape[-1])


class _Forward(NamedTuple):
    """Between the phases forward."""

    chunks: _Chunks
    T: Tensor
    solved: Tensor
    dtype: torch.dtype


class _Backward(NamedTuple):
    """Between the phases backward: what outputs ask of ``written`` and of the entering state."""

    chunks: _Chunks
    kept: tuple[Tensor, ...]
    dO: Tensor
    P: Tensor
    d_written: Tensor
    read: Tensor


class GatedDelta(Recurrence[ChunkGrid, _Forward, _Backward]):
    """The recurrence of Gated DeltaNet.

    Inputs ``q, k [t, g, k], v [t, h, v], decay, beta [t, h]``: ``decay`` is the log decay (<= 0),
    ``beta`` lies in [0, 2] and keys have at most norm 1. Each of the ``g`` key heads serves
    ``h / g`` consecutive value heads.
    """

    def step(self, inputs: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
        """One token: ``q, k [g, k], v [h, v], decay, beta [h]``."""
        q, k, v, decay, beta = (x.to(state.dtype) for x in inputs)
        shared = state.shape[0] // q.shape[0]
        q, k = (x.repeat_interleave(shared, 0) for x in (q, k))
        state = decay.exp()[:, None, None] * state
        read = (k[:, None, :] @ state).squeeze(1)
        state = state + k[:, :, None] * (beta[:, None] * (v - read))[:, None, :]
        return (q[:, None, :] @ state).squeeze(1), state

    def grid(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> ChunkGrid:  # noqa: ARG002
        """Chunks of ``CHUNK`` tokens, whatever the inputs."""
        return layout.derive(ChunkGrid.build, CHUNK)

    def begin(self, inputs: tuple[Tensor, ...], grid: ChunkGrid) -> _Forward:
        """The triangular systems, solved."""
        c = _Chunks.of(inputs, grid)
        T = inverse((c.b * c.similar).tril_(-1))
        key, value = c.K.shape[-1], c.V.shape[-1]
        mixed = c.V.new_empty(*c.V.shape[:-1], value + key)
        torch.mul(c.b, c.V, out=mixed[..., :value])
        torch.mul(c.b * c.d.inflow, c.K, out=mixed[..., value:])
        return _Forward(c, T, T @ mixed, inputs[2].dtype)

    def summary(self, work: _Forward, grid: ChunkGrid, *, alive: bool) -> AffineState:
        """Transition ``[h, k, k]`` and state ``[h, k, v]``.

        Both are one pass: the transition is where the identity goes when nothing is written, so it
        takes ``k`` more columns.
        """
        c, (row, (_, _, key, value)) = work.chunks, work.chunks.state(grid)
        u, w = _flat(work.solved)[:, -row:].split([value, key], -1)
        states = u.new_zeros(row, key, value + key * alive)
        states[..., value:].diagonal(dim1=1, dim2=2).fill_(1)
        for n in range(grid.chunks):
            written = w[n] @ states
            written[..., :value] -= u[n]
            states = torch.baddbmm(
                c.carry[n, -row:] * states, c.Kout[n, -row:].mT, written, alpha=-1
            )
        transition = states[..., value:] if alive else u.new_zeros(row, key, key)
        return AffineState(transition, states[..., :value])

    def inside(self, work: _Forward) -> Tensor:
        """``P [n, x, r, c, c]``."""
        return work.chunks.scores

    def finish(
        self, work: _Forward, inside: Tensor, initial: Tensor | None, grid: ChunkGrid
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Keeps the inverse, the solution, what was written and the states between chunks."""
        c, (row, shape) = work.chunks, work.chunks.state(grid)
        u, w = _flat(work.solved).split([shape[3], shape[2]], -1)
        states = c.V.new_empty(grid.chunks + 1, len(u[0]), *shape[2:])
        states[0] = grid.enter(initial, c.V, shape).flatten(0, 1)
        written = torch.empty_like(u, memory_format=torch.contiguous_format)
        for n in range(grid.chunks):
            torch.baddbmm(u[n], w[n], states[n], alpha=-1, out=written[n])
            torch.mul(c.carry[n], states[n], out=states[n + 1])
            states[n + 1].baddbmm_(c.Kout[n].mT, written[n])
        written, states = (x.unflatten(1, c.V.shape[1:3]) for x in (written, states))
        out = (c.Q @ states[:-1]).mul_(c.d.inflow) + inside @ written
        final = _flat(states)[-1, -row:]
        return grid.join(out).to(work.dtype), final, (work.T, work.solved, written, states)

    def begin_backward(
        self,
        inputs: tuple[Tensor, ...],
        kept: tuple[Tensor, ...],
        d_out: Tensor,
        grid: ChunkGrid,
    ) -> _Backward:
        """The gradients of ``written`` and of the entering states through a chunk's own outputs."""
        c, dO = _Chunks.of(inputs, grid), grid.split(d_out, inputs[0].shape[1])
        P = c.scores
        read = _flat(c.Q.mT @ (c.d.inflow * dO))
        return _Backward(c, kept, dO, P, _flat(P.mT @ dO), read)

    def cosummary(self, work: _Backward, grid: ChunkGrid) -> Tensor:
        """``[h, k, v]``."""
        c, (row, shape) = work.chunks, work.chunks.state(grid)
        w = _flat(work.kept[1])[:, :row, :, shape[3] :]
        d_state = torch.zeros_like(work.read[0, :row])
        for n in reversed(range(grid.chunks)):
            d_written = torch.baddbmm(work.d_written[n, :row], c.Kout[n, :row], d_state)
            d_state = torch.addcmul(work.read[n, :row], c.carry[n, :row], d_state)
            d_state.baddbmm_(w[n].mT, d_written, alpha=-1)
        return d_state * grid.continues

    def finish_backward(
        self, work: _Backward, d_final: Tensor | None, grid: ChunkGrid
    ) -> tuple[list[Tensor], Tensor]:
        """Of ``q, k, v, decay, beta``."""
        c, (T, solved, written, states) = work.chunks, work.kept
        d_written, d_states = _state_pass_backward(work, d_final, grid)
        value, key = c.V.shape[-1], c.K.shape[-1]

        dP = work.dO @ written.mT
        d_solved = torch.cat([d_written, -(d_written @ states[:-1].mT)], -1)
        d_mixed = T.mT @ d_solved
        dA = -(d_mixed @ solved.mT).tril_(-1)
        d_bV, d_bK = d_mixed.split([value, key], -1)
        d_bK = c.d.inflow * d_bK

        dQin = c.d.inflow * (work.dO @ states[:-1].mT)
        dKout = c.d.outflow * (written @ d_states[1:].mT)
        d_scores = (dP * c.d.between).sum(2, True)
        d_similar = (c.b * dA * c.d.between).sum(2, True)
        dQ = d_scores @ c.K + dQin.sum(2, True)
        dK = d_scores.mT @ c.Q + (d_similar + d_similar.mT) @ c.K
        dK += (c.b * d_bK + dKout).sum(2, True)
        from_key = (d_bK * c.K).sum(-1, True)
        dA, dP = dA * c.similar, dP * work.P  # gradients of the logarithms of both, but for beta
        d_beta = dA.sum(-1, True) + (d_bV * c.V).sum(-1, True) + from_key

        # log e^(G_i - G_j) is linear in G: a query adds what it takes, a key gives it back
        paired = torch.addcmul(dP, c.b, dA)
        d_total = paired.sum(-1, True) - paired.sum(-2)[..., None]
        d_total += c.b * from_key + (dQin * c.Q).sum(-1, True) - (dKout * c.K).sum(-1, True)
        d_total[..., -1:, :] += (states[1:] * d_states[1:]).sum((-2, -1))[..., None, None]

        grads = [grid.join(x) for x in (dQ, dK, c.b * d_bV)]
        grads += [grid.join(x).squeeze(-1) for x in (grid.cumulate_grad(d_total), d_beta)]
        first = d_states[0, : c.K.shape[1] // grid.rows].flatten(0, 1)
        return grads, first * grid.continues


def _state_pass_backward(
    work: _Backward, d_final: Tensor | None, grid: ChunkGrid
) -> tuple[Tensor, Tensor]:
    """Gradients ``[n, x, r, c, v]`` of what was written and ``[n + 1, x, r, k, v]`` of the states.

    ``d_states[n]`` belongs to the state that enters chunk n.
    """
    c, (row, shape) = work.chunks, work.chunks.state(grid)
    w, d_written = _flat(work.kept[1])[..., shape[3] :], work.d_written
    d_states = work.read.new_zeros(grid.chunks + 1, *work.read.shape[1:])
    if d_final is not None:
        d_states[-1, -row:] = d_final
    for n in reversed(range(grid.chunks)):
        d_written[n].baddbmm_(c.Kout[n], d_states[n + 1])
        torch.addcmul(work.read[n], c.carry[n], d_states[n + 1], out=d_states[n])
        d_states[n].baddbmm_(w[n].mT, d_written[n], alpha=-1)
    return d_written.unflatten(1, c.V.shape[1:3]), d_states.unflatten(1, c.V.shape[1:3])


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


def _flat(x: Tensor) -> Tensor:
    """``[n, x, r, …]`` to ``[n, x * r, …]``."""
    return x.flatten(1, 2)
