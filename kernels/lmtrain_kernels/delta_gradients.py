"""Gated delta rule: the gradients of the inputs, every chunk for itself."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl

from lmtrain_kernels.delta_backward import launch, load_totals
from lmtrain_kernels.dots import (
    add_dot,
    between,
    dot,
    load_numbers,
    load_tile,
    store_numbers,
    store_tile,
)

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain_kernels.delta_prepare import Prepared
    from lmtrain_kernels.table import ChunkTable


def gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    prepared: Prepared,
    states: Tensor,
    written: Tensor,
    d_out: Tensor,
    d_written: Tensor,
    d_states: Tensor,
    table: ChunkTable,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``q, k, v, decay, beta``.

    Args:
        q: ``[t, g, kd]``.
        k: ``[t, g, kd]``.
        v: ``[t, h, vd]``.
        beta: ``[t, h]`` fp32.
        prepared: of which ``total`` and ``inverse`` are read.
        states: ``[n, h, kd, vd]`` entering each chunk.
        written: ``[t, h, vd]``.
        d_out: ``[t, h, vd]``.
        d_written: ``[t, h, vd]`` in full, of ``pass_d_states``.
        d_states: ``[n, h, kd, vd]`` of the state that leaves each chunk.
        table: where the chunks lie.

    Returns:
        ``dq, dk [t, g, kd]`` and ``dv [t, h, vd]`` in the dtype of ``k``; ``d_decay, d_beta
        [t, h]`` in fp32.
    """
    (heads, value), (groups, key) = v.shape[1:], k.shape[1:]
    launched = launch("delta_gradients", k, value)
    together = _divisor(heads // groups, launched.pop("heads"))
    blocks = -(-key // launched["BK"])
    # of d_beta, a part comes from each block of keys, and one from values
    d_decay, d_beta = (beta.new_empty((n, *beta.shape)) for n in (blocks, blocks + 1))
    pairs = _pairs(v, beta, prepared, written, d_out, d_written, d_beta[-1], table)
    partial = k.dtype if together * groups == heads else torch.float32
    dq, dk = (k.new_empty(len(k), heads // together, key, dtype=partial) for _ in range(2))
    _gradients_kernel[(len(table.chunks) * (heads // together) * blocks,)](
        *(q, k, beta, prepared.total, states, written, d_out, d_states),
        *(pairs.solved, pairs.read, pairs.asked, pairs.own),
        *(dq, dk, d_decay, d_beta, table.chunks, len(k)),
        H=heads,
        SHARED=heads // groups,
        TOGETHER=together,
        K=key,
        V=value,
        C=table.size,
        **launched,
    )
    if together * groups < heads:
        dq, dk = (x.unflatten(1, (groups, -1)).sum(2).to(k.dtype) for x in (dq, dk))
    return dq, dk, pairs.dv, d_decay.sum(0), d_beta.sum(0)


class _Pairs(NamedTuple):
    """What needs no state, of every token and value head."""

    solved: Tensor
    """``[t, h, vd]``: ``D``."""
    dv: Tensor
    """``[t, h, vd]``."""
    read: Tensor
    """``[t, h, C]``: gradients of ``q_i . k_j`` for ``j < i``."""
    asked: Tensor
    """``[t, h, C]``: gradients of ``k_i . k_j / beta_i`` for ``j < i``."""
    own: Tensor
    """``[t, h]`` fp32: gradient of ``q_i . k_i``."""


def _pairs(
    v: Tensor,
    beta: Tensor,
    prepared: Prepared,
    written: Tensor,
    d_out: Tensor,
    d_written: Tensor,
    d_beta: Tensor,
    table: ChunkTable,
) -> _Pairs:
    """The gradients inside chunks; into ``d_beta``, what comes from values."""
    t, heads, value = v.shape
    solved, dv = torch.empty_like(written), torch.empty_like(v)
    read, asked = (written.new_empty(t, heads, table.size) for _ in range(2))
    own = torch.empty_like(beta)
    _pairs_kernel[(len(table.chunks) * heads,)](
        *(v, beta, prepared.total, prepared.inverse, written, d_out, d_written),
        *(solved, dv, read, asked, own, d_beta, table.chunks),
        H=heads,
        V=value,
        C=table.size,
        **launch("delta_pairs", written, value),
    )
    return _Pairs(solved, dv, read, asked, own)


def _divisor(number: int, most: int) -> int:
    """The largest divisor of ``number`` that is at most ``most``."""
    return max(n for n in range(1, most + 1) if number % n == 0)


@triton.jit
def _pairs_kernel(
    v,
    beta,
    total,
    inverse,
    written,
    d_out,
    d_written,
    solved,
    dv,
    read,
    asked,
    own,
    d_beta,
    chunks,
    H: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BV: tl.constexpr,
):
    """One chunk of one value head."""
    chunk, head = tl.program_id(0) // H, tl.program_id(0) % H
    start = tl.load(chunks + 2 * chunk).to(tl.int64)
    count = (tl.load(chunks + 2 * chunk + 1) - start).to(tl.int32)
    token, i = start * H + head, tl.arange(0, C)
    b = load_numbers(beta + token, count, H, C)
    T = load_tile(inverse + token * C, count, 0, H * C, C, C, C)
    dP, dA = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    diagonal, by_value = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32)
    for column in range(0, V, BV):
        dW = load_tile(d_written + token * V, count, column, H * V, V, C, BV)
        D = dot(tl.trans(T), dW)
        Vb = load_tile(v + token * V, count, column, H * V, V, C, BV)
        by_value += tl.sum(D * Vb, 1)
        store_tile(dv + token * V, b[:, None] * D, count, column, H * V, V, C, BV)
        D = D.to(T.dtype)
        store_tile(solved + token * V, D, count, column, H * V, V, C, BV)
        W = load_tile(written + token * V, count, column, H * V, V, C, BV)
        dA = add_dot(dA, D, tl.trans(W))
        dO = load_tile(d_out + token * V, count, column, H * V, V, C, BV)
        dP = add_dot(dP, dO.to(W.dtype), tl.trans(W))
        diagonal += tl.sum(dO.to(tl.float32) * W, 1)
    store_numbers(own + token, diagonal, count, H, C)
    store_numbers(d_beta + token, by_value, count, H, C)
    G, _ = load_totals(total + token, count, H, C)
    factor = tl.where(i[:, None] > i, between(G, C), 0.0)
    store_tile(read + token * C, dP * factor, count, 0, H * C, C, C, C)
    store_tile(asked + token * C, -dA * factor, count, 0, H * C, C, C, C)


@triton.jit(do_not_specialize=["tokens"])
def _gradients_kernel(
    q,
    k,
    beta,
    total,
    states,
    written,
    d_out,
    d_states,
    solved,
    read,
    asked,
    own,
    dq,
    dk,
    d_decay,
    d_beta,
    chunks,
    tokens,
    H: tl.constexpr,
    SHARED: tl.constexpr,
    TOGETHER: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    STEP: tl.constexpr,
):
    """One chunk for ``TOGETHER`` value heads of a key head, and ``BK`` columns of keys.

    A query reads the state; a key is written into it (``dK``), and reads it to be written less
    (``dR``, the gradient of ``beta k`` as it reads).
    """
    BUNDLES: tl.constexpr = H // TOGETHER
    GROUPS: tl.constexpr = H // SHARED
    BLOCKS: tl.constexpr = (K + BK - 1) // BK
    chunk, bundle = tl.program_id(0) // (BUNDLES * BLOCKS), tl.program_id(0) // BLOCKS % BUNDLES
    block = tl.program_id(0) % BLOCKS
    row, part = block * BK, block.to(tl.int64) * tokens * H
    start = tl.load(chunks + 2 * chunk).to(tl.int64)
    count = (tl.load(chunks + 2 * chunk + 1) - start).to(tl.int32)
    at_key = (start * GROUPS + bundle * TOGETHER // SHARED) * K
    i, j = tl.arange(0, C), tl.arange(0, BK)
    dQ, dK = tl.zeros((C, BK), tl.float32), tl.zeros((C, BK), tl.float32)
    for number in tl.range(TOGETHER, disable_licm=True):  # addresses would fill the registers
        head = bundle * TOGETHER + number
        token = start * H + head
        at_state = ((chunk * H + head).to(tl.int64) * K + row) * V

        # what passes through states: tiles go to the products as they are, results are scaled
        nothing = tl.zeros((C, BK), tl.float32)
        from_q, from_r, from_k = nothing, nothing, nothing
        kept = tl.zeros((BK, BK), tl.float32)
        for column in tl.range(0, V, BV, disable_licm=True):
            S = load_tile(states + at_state, K - row, column, V, V, BK, BV)
            dO = load_tile(d_out + token * V, count, column, H * V, V, C, BV)
            from_q = add_dot(from_q, dO.to(S.dtype), tl.trans(S))
            D = load_tile(solved + token * V, count, column, H * V, V, C, BV)
            from_r = add_dot(from_r, D, tl.trans(S))
            dS = load_tile(d_states + at_state, K - row, column, V, V, BK, BV)
            W = load_tile(written + token * V, count, column, H * V, V, C, BV)
            from_k = add_dot(from_k, W, tl.trans(dS))
            # only the diagonal counts, but a tile that registers read too would be overwritten: the
            # compiler starts the next copy while products, which it does not await, still read
            kept = add_dot(kept, S, tl.trans(dS))
        G, leaves = load_totals(total + token, count, H, C)
        b = load_numbers(beta + token, count, H, C)
        Kb = load_tile(k + at_key, count, row, GROUPS * K, K, C, BK)
        from_k *= tl.exp(leaves - G)[:, None]
        leaving = tl.sum(Kb * from_k, 1)
        dK += from_k
        dR, asks = -tl.exp(G)[:, None] * from_r, tl.exp(G)[:, None] * from_q

        # what passes inside of the chunk
        inner = tl.zeros((C, BK), tl.float32)
        at_pair = token * C
        for first in tl.static_range(0, C, STEP):
            rest, at = count - first, at_key + first * GROUPS * K
            some = load_tile(k + at, rest, row, GROUPS * K, K, STEP, BK)
            dA = load_tile(asked + at_pair, count, first, H * C, C, C, STEP)
            dP = load_tile(read + at_pair, count, first, H * C, C, C, STEP)
            dR, asks = add_dot(dR, dA, some), add_dot(asks, dP, some)
            if STEP < C:
                dA = load_tile(asked + at_pair + first * H * C, rest, 0, H * C, C, STEP, C)
                dP = load_tile(read + at_pair + first * H * C, rest, 0, H * C, C, STEP, C)
            betas = load_numbers(beta + token + first * H, rest, H, STEP)
            inner = add_dot(inner, tl.trans(dA), (betas[:, None] * some).to(some.dtype))
            Q = load_tile(q + at, rest, row, GROUPS * K, K, STEP, BK)
            inner = add_dot(inner, tl.trans(dP), Q)

        Kb = load_tile(k + at_key, count, row, GROUPS * K, K, C, BK)
        Q = load_tile(q + at_key, count, row, GROUPS * K, K, C, BK)
        by_key = tl.sum(Kb * dR, 1)
        store_numbers(d_beta + part + token, by_key, count, H, C)
        d_total = tl.sum(Q * asks, 1) + b * by_key - tl.sum(Kb * inner, 1)
        # what leaves the chunk decays with all tokens behind its own
        through = tl.sum(tl.where(j[:, None] == j, kept, 0.0))
        d_total = tl.cumsum(d_total, 0, reverse=True) + tl.exp(leaves) * through
        earlier = tl.where(i > 0, tl.gather(leaving, tl.maximum(i - 1, 0), 0), 0.0)
        d_total += tl.cumsum(earlier, 0)
        store_numbers(d_decay + part + token, d_total, count, H, C)
        diagonal = load_numbers(own + token, count, H, C)[:, None]
        dQ += asks + diagonal * Kb
        dK += inner + b[:, None] * dR + diagonal * Q
    at_sum = (start * BUNDLES + bundle) * K
    store_tile(dq + at_sum, dQ, count, row, BUNDLES * K, K, C, BK)
    store_tile(dk + at_sum, dK, count, row, BUNDLES * K, K, C, BK)
