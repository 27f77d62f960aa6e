"""Scalar-decay recurrence (SSD, Mamba-2), chunked: ``S_t = e^(g_t) S_(t-1) + k_t v_t^T``,
``o_t = S_t^T q_t``.

Dao and Gu 2024 (arXiv 2405.21060), section 6, with documents exact inside chunks and a hand-written
backward that keeps two tensors a token besides the inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from lmtrain.ops.chunks import CHUNK, ChunkGrid, Decays
from lmtrain.ops.recurrence import AffineState, Recurrence

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout


class _Forward(NamedTuple):
    """``Q, K [n, x, c, k]``, ``V [n, x, c, r, v]``, and what each chunk does to the state.

    n chunks, x rows times groups, c tokens, r heads of a group. Heads of a group share keys and
    queries, so what meets the state keeps them side by side (``[n, x, c, r * v]``, the order of the
    inputs): one large product instead of ``r`` small ones.
    """

    inputs: tuple[Tensor, ...]
    Q: Tensor
    K: Tensor
    V: Tensor
    d: Decays
    carry: Tensor
    added: Tensor


class _Backward(NamedTuple):
    """The same for gradients: ``read`` is what the outputs of a chunk ask of its entering state."""

    Q: Tensor
    K: Tensor
    V: Tensor
    d: Decays
    carry: Tensor
    read: Tensor
    dO: Tensor
    dO_in: Tensor
    states: Tensor
    out: Tensor


class ScalarDecay(Recurrence[ChunkGrid, _Forward, _Backward]):
    """The recurrence of Mamba-2; inputs ``q [t, g, k], k [t, g, k], v [t, h, v], decay [t, h]``.

    ``decay`` is the log decay (<= 0). Each of the ``g`` groups serves ``h / g`` consecutive heads.
    """

    def step(self, inputs: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
        """One token: ``q, k [g, k], v [h, v], decay [h]``."""
        q, k, v, decay = (x.to(state.dtype) for x in inputs)
        shared = state.shape[0] // q.shape[0]
        q, k = (x.repeat_interleave(shared, 0) for x in (q, k))
        state = decay.exp()[:, None, None] * state + k[:, :, None] * v[:, None, :]
        return (q[:, None, :] @ state).squeeze(1), state

    def grid(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> ChunkGrid:  # noqa: ARG002
        """Chunks of ``CHUNK`` tokens, whatever the inputs."""
        return layout.derive(ChunkGrid.build, CHUNK)

    def begin(self, inputs: tuple[Tensor, ...], grid: ChunkGrid) -> _Forward:
        """``added``: what each chunk adds to the state."""
        Q, K, V, d = _chunks(inputs, grid)
        added = K.mT @ (V * d.outflow.transpose(2, 3)).flatten(3)
        return _Forward(inputs, Q, K, V, d, _per_column(d.carry, V.shape[4]), added)

    def summary(self, work: _Forward, grid: ChunkGrid, *, alive: bool) -> AffineState:
        """Transition ``[h]`` and state ``[h, k, v]``."""
        groups, (heads, width) = work.inputs[0].shape[1], work.V.shape[3:]
        state = torch.zeros_like(work.added[0, -groups:])
        for n in range(grid.chunks):
            state = torch.addcmul(work.added[n, -groups:], work.carry[n, -groups:], state)
        total = work.d.carry[:, -groups:].prod(0).flatten() * alive
        return AffineState(total, _heads(state, heads, width))

    def inside(self, work: _Forward) -> Tensor:
        """``[n, x, r, c, v]``: what tokens take from those before them in their chunk."""
        return _scores(work.Q, work.K, work.d) @ work.V.transpose(2, 3)

    def finish(
        self, work: _Forward, inside: Tensor, initial: Tensor | None, grid: ChunkGrid
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Keeps the states between chunks and the outputs."""
        groups, (heads, width) = work.inputs[0].shape[1], work.V.shape[3:]
        states = work.added.new_empty(grid.chunks + 1, *work.added.shape[1:])
        entering = grid.enter(initial, work.V, (groups, heads, work.K.shape[3], width))
        states[0] = entering.transpose(1, 2).flatten(2)
        for n in range(grid.chunks):
            torch.addcmul(work.added[n], work.carry[n], states[n], out=states[n + 1])
        out = (work.Q @ states[:-1]).unflatten(3, (heads, width))
        out = out.mul_(work.d.inflow.transpose(2, 3)).add_(inside.transpose(2, 3))
        final = _heads(states[-1, -groups:], heads, width)
        return grid.join_wide(out).to(work.inputs[2].dtype), final, (states, out)

    def begin_backward(
        self,
        inputs: tuple[Tensor, ...],
        kept: tuple[Tensor, ...],
        d_out: Tensor,
        grid: ChunkGrid,
    ) -> _Backward:
        """``read``: the gradient of each chunk's entering state through its own outputs."""
        states, out = kept
        Q, K, V, d = _chunks(inputs, grid)
        dO = grid.split_wide(d_out, inputs[0].shape[1])
        dO_in = (dO * d.inflow.transpose(2, 3)).flatten(3)
        carry = _per_column(d.carry, V.shape[4])
        return _Backward(Q, K, V, d, carry, Q.mT @ dO_in, dO, dO_in, states, out)

    def cosummary(self, work: _Backward, grid: ChunkGrid) -> Tensor:
        """``[h, k, v]``."""
        groups = work.Q.shape[1] // grid.rows
        d_state = torch.zeros_like(work.read[0, :groups])
        for n in reversed(range(grid.chunks)):
            d_state = torch.addcmul(work.read[n, :groups], work.carry[n, :groups], d_state)
        return _heads(d_state, *work.V.shape[3:]) * grid.continues

    def finish_backward(
        self, work: _Backward, d_final: Tensor | None, grid: ChunkGrid
    ) -> tuple[list[Tensor], Tensor]:
        """Of ``q, k, v, decay``."""
        Q, K, V, d, carry, read, dO, dO_in, states, out = work
        groups, (heads, width) = Q.shape[1] // grid.rows, V.shape[3:]
        d_states = torch.zeros_like(states)  # d_states[n] belongs to what enters chunk n
        if d_final is not None:
            wide = d_final.unflatten(0, (groups, heads)).transpose(1, 2).flatten(2)
            d_states[-1, -groups:] = wide
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
        d_total[..., -1, 0] += (states[1:] * d_states[1:]).unflatten(3, (heads, width)).sum((2, 4))
        d_decay = grid.join(grid.cumulate_grad(d_total)).squeeze(-1)
        dQ, dK = (grid.join(x[:, :, None]) for x in (dQ, dK))
        d_initial = _heads(d_states[0, :groups], heads, width) * grid.continues
        return [dQ, dK, grid.join_wide(dV), d_decay], d_initial


def _chunks(inputs: tuple[Tensor, ...], grid: ChunkGrid) -> tuple[Tensor, Tensor, Tensor, Decays]:
    """``Q, K, V`` and the decay factors of inputs ``q, k, v, decay``."""
    q, k, v, decay = inputs
    groups = q.shape[1]
    Q, K = (grid.split(x, groups).squeeze(2) for x in (q, k))
    d = Decays.of(grid.split(decay[:, :, None], groups), grid)
    return Q, K, grid.split_wide(v, groups), d


def _scores(Q: Tensor, K: Tensor, d: Decays) -> Tensor:
    """``[n, x, r, c, c]``: what each token takes from those before it in the chunk."""
    return (Q @ K.mT)[:, :, None] * d.between


def _per_column(carry: Tensor, width: int) -> Tensor:
    """``[n, x, r, 1, 1]`` carries to ``[n, x, 1, r * width]``, one for each column of a state."""
    return carry.squeeze(-1).expand(-1, -1, -1, width).flatten(2)[:, :, None]


def _heads(wide: Tensor, heads: int, width: int) -> Tensor:
    """``[g, k, r * v]`` states to ``[h, k, v]``."""
    return wide.unflatten(2, (heads, width)).transpose(1, 2).flatten(0, 1)
