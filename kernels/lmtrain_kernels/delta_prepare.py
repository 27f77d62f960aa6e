"""Gated delta rule: what a chunk needs no state for, its triangular system solved.

Yang et al. 2025 (arXiv 2412.06464), section 3.3: with ``G`` the cumulative log decay of a chunk,

    A = tril(beta (K K^T * e^(G_i - G_j)), -1)     T = (I + A)^-1
    [u | w] = T [beta V | beta e^G K]
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl

from lmtrain_kernels.dots import (
    add_dot,
    between,
    dot,
    load_numbers,
    load_tile,
    padded,
    store_numbers,
    store_tile,
)
from lmtrain_kernels.pointwise import DTYPES
from lmtrain_kernels.tuned import tuned

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain_kernels.table import ChunkTable

CHUNK = 64
"""Tokens of a chunk."""
MOST_WIDTH = 256
"""Of a head that the kernels take."""


class Prepared(NamedTuple):
    """Of every token and value head."""

    total: Tensor
    """``[t, h]`` fp32: log decay since the chunk began, its own included."""
    inverse: Tensor
    """``[t, h, 64]`` in the dtype of keys: the token's row of ``T``."""
    w: Tensor
    """``[t, h, k]`` in the dtype of keys: what the entering state is read with."""
    u: Tensor
    """``[t, h, v]`` in the dtype of keys: what is written if that state is zero."""


def prepare(k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, table: ChunkTable) -> Prepared:
    """Solve the triangular system of every chunk.

    Args:
        k: ``[t, g, k]`` keys of norm <= 1.
        v: ``[t, h, v]`` values, in the dtype of keys; head i has key head ``i // (h / g)``.
        decay: ``[t, h]`` fp32 log decays (<= 0).
        beta: ``[t, h]`` fp32 in [0, 2].
        table: chunks of 64 tokens.

    Raises:
        ValueError: the table has other chunks, shapes or dtypes do not fit, or a head is wider than
            256.
    """
    check(k, v, decay, beta, table)
    total, inverse = _empty(k, decay, table)
    return Prepared(total, inverse, *_mix(k, v, decay, beta, total, inverse, table, solve=True))


def solve(
    q: Tensor, k: Tensor, decay: Tensor, beta: Tensor, table: ChunkTable
) -> tuple[Tensor, Tensor, Tensor]:
    """``total`` and ``inverse`` of ``prepare``, and ``P [t, h, 64]`` in the dtype of keys.

    ``P`` is what a token takes of what its chunk writes, ``tril(Q K^T * e^(G_i - G_j))``.
    """
    total, inverse = _empty(k, decay, table)
    scores = torch.empty_like(inverse)
    _launch(k, decay, beta, total, inverse, table, q=q, scores=scores, solve=True)
    return total, inverse, scores


def recompute(
    k: Tensor, v: Tensor, beta: Tensor, total: Tensor, inverse: Tensor, table: ChunkTable
) -> tuple[Tensor, Tensor]:
    """``w`` and ``u`` of ``prepare`` again, bit by bit, from its ``total`` and ``inverse``."""
    return _mix(k, v, total, beta, total, inverse, table, solve=False)


def check(k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, table: ChunkTable) -> None:
    """Refuse, as ``prepare``, what the kernels of the gated delta rule do not take."""
    if table.size != CHUNK:
        raise ValueError(f"a table of chunks of {table.size} tokens: build it with size={CHUNK}")
    if v.shape[1] % k.shape[1]:
        raise ValueError(f"{v.shape[1]} value heads do not divide by {k.shape[1]} key heads")
    if not len(k) == len(v) or not decay.shape == beta.shape == v.shape[:2]:
        raise ValueError(
            f"keys {list(k.shape)}, values {list(v.shape)}, decay {list(decay.shape)}, beta "
            f"{list(beta.shape)}: want [t, g, k], [t, h, v], [t, h], [t, h]"
        )
    if max(k.shape[2], v.shape[2]) > MOST_WIDTH:
        raise ValueError(
            f"heads of {k.shape[2]} and {v.shape[2]} wide: the kernels take up to {MOST_WIDTH}; "
            "use the torch backend"
        )
    if k.dtype != v.dtype or k.dtype not in DTYPES:
        raise ValueError(
            f"keys are {k.dtype} and values {v.dtype}: cast both to one of bf16, fp16 and fp32"
        )


def _empty(k: Tensor, decay: Tensor, table: ChunkTable) -> tuple[Tensor, Tensor]:
    """Room for ``total`` and ``inverse``."""
    total = torch.empty_like(decay, dtype=torch.float32)
    return total, k.new_empty(*decay.shape, table.size)


def _mix(
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    beta: Tensor,
    total: Tensor,
    inverse: Tensor,
    table: ChunkTable,
    *,
    solve: bool,
) -> tuple[Tensor, Tensor]:
    """``w, u``; ``total`` and ``inverse`` are filled before if ``solve``."""
    (t, heads, _), key = v.shape, k.shape[2]
    w, u = k.new_empty(t, heads, key), torch.empty_like(v)
    _launch(k, decay, beta, total, inverse, table, v=v, w=w, u=u, solve=solve)
    return w, u


def _launch(
    k: Tensor,
    decay: Tensor,
    beta: Tensor,
    total: Tensor,
    inverse: Tensor,
    table: ChunkTable,
    *,
    solve: bool,
    v: Tensor | None = None,
    w: Tensor | None = None,
    u: Tensor | None = None,
    q: Tensor | None = None,
    scores: Tensor | None = None,
) -> None:
    """Write ``total`` and ``inverse`` if ``solve``, ``w, u`` of ``v``, and ``scores`` of ``q``."""
    (_, groups, key), heads = k.shape, decay.shape[1]
    value = 1 if v is None else v.shape[2]
    launch = tuned("delta_prepare", k.device, dtype=str(k.dtype).removeprefix("torch."))
    block = launch.pop("BLOCK")
    _prepare[(len(table.chunks) * heads,)](
        *(k, v, decay, beta, table.chunks, total, inverse, w, u, q, scores),
        HEADS=heads,
        SHARED=heads // groups,
        KEY=key,
        VALUE=value,
        C=table.size,
        KEY_BLOCK=min(block, padded(key)),
        VALUE_BLOCK=min(block, padded(value)),
        SOLVE=solve,
        **launch,
    )


@triton.jit
def _prepare(
    k,
    v,
    decay,
    beta,
    chunks,
    total,
    inverse,
    w,
    u,
    q,
    scores,
    HEADS: tl.constexpr,
    SHARED: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    C: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
    SOLVE: tl.constexpr,
):
    """One chunk of one value head."""
    chunk, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    start = tl.load(chunks + 2 * chunk).to(tl.int64)
    count = (tl.load(chunks + 2 * chunk + 1) - start).to(tl.int32)
    token, GROUPS = start * HEADS + head, HEADS // SHARED
    at_key = (start * GROUPS + head // SHARED) * KEY
    k += at_key

    b = load_numbers(beta + token, count, HEADS, C)
    if SOLVE:
        G = tl.cumsum(load_numbers(decay + token, count, HEADS, C), 0)
        store_numbers(total + token, G, count, HEADS, C)
        similar, asked = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
        for column in tl.range(0, KEY, KEY_BLOCK):
            K = load_tile(k, count, column, GROUPS * KEY, KEY, C, KEY_BLOCK)
            similar = add_dot(similar, K, tl.trans(K))
            if scores is not None:
                Q = load_tile(q + at_key, count, column, GROUPS * KEY, KEY, C, KEY_BLOCK)
                asked = add_dot(asked, Q, tl.trans(K))
        passed = between(G, C)
        if scores is not None:
            store_tile(scores + token * C, asked * passed, count, 0, HEADS * C, C, C, C)
        row = tl.arange(0, C)
        A = tl.where(row[:, None] > row[None, :], b[:, None] * similar * passed, 0.0)
        T = unit_inverse(A, C, 16, 2, inverse.dtype.element_ty == tl.float32)
        T = T.to(inverse.dtype.element_ty)
        store_tile(inverse + token * C, T, count, 0, HEADS * C, C, C, C)
    else:
        G = load_numbers(total + token, count, HEADS, C)
        T = load_tile(inverse + token * C, count, 0, HEADS * C, C, C, C)

    if w is not None:
        for column in tl.range(0, VALUE, VALUE_BLOCK):
            V = load_tile(v + token * VALUE, count, column, HEADS * VALUE, VALUE, C, VALUE_BLOCK)
            U = dot(T, (b[:, None] * V).to(T.dtype))
            store_tile(u + token * VALUE, U, count, column, HEADS * VALUE, VALUE, C, VALUE_BLOCK)
        b *= tl.exp(G)
        for column in tl.range(0, KEY, KEY_BLOCK):
            K = load_tile(k, count, column, GROUPS * KEY, KEY, C, KEY_BLOCK)
            W = dot(T, (b[:, None] * K).to(T.dtype))
            store_tile(w + token * KEY, W, count, column, HEADS * KEY, KEY, C, KEY_BLOCK)


@triton.jit
def unit_inverse(A, C: tl.constexpr, BASE: tl.constexpr, LEVELS: tl.constexpr, WIDE: tl.constexpr):
    """``(I + A)^-1`` of strictly lower triangular ``A [C, C]``, ``C = BASE 2^LEVELS``.

    Diagonal blocks by substitution, then merged in pairs: all that is ever held are blocks of the
    inverse itself, so nothing overflows that does not there. ``WIDE`` is of ``_add_product``.
    """
    T = _substitute(_diagonal(A, C // BASE, BASE), C // BASE, BASE)
    T = _spread(T, C // BASE, BASE)
    row, column = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    for level in tl.static_range(LEVELS):
        block = BASE << level
        beside = (row // (2 * block) == column // (2 * block)) & (row // block > column // block)
        link = _add_product(tl.zeros((C, C), tl.float32), T, tl.where(beside, -A, 0.0), WIDE)
        T = _add_product(T, link, T, WIDE)
    return T


@triton.jit
def _diagonal(A, N: tl.constexpr, B: tl.constexpr):
    """``[N, B, B]``: blocks of ``A [N B, N B]`` on the diagonal."""
    i, j = tl.arange(0, N)[:, None, None, None], tl.arange(0, N)[None, None, :, None]
    return tl.sum(tl.where(i == j, tl.reshape(A, (N, B, N, B)), 0.0), axis=2)


@triton.jit
def _spread(blocks, N: tl.constexpr, B: tl.constexpr):
    """``[N B, N B]`` of ``blocks [N, B, B]`` on its diagonal."""
    i, j = tl.arange(0, N)[:, None, None, None], tl.arange(0, N)[None, None, :, None]
    return tl.reshape(tl.where(i == j, blocks[:, :, None, :], 0.0), (N * B, N * B))


@triton.jit
def _substitute(A, N: tl.constexpr, B: tl.constexpr):
    """``(I + A)^-1`` of ``A [N, B, B]``: one column of ``A`` after the other is eliminated."""
    row, column = tl.arange(0, B)[None, :, None], tl.arange(0, B)[None, None, :]
    T = tl.where(row == column, 1.0, tl.zeros((N, B, B), tl.float32))
    for j in range(B - 1):
        factor = tl.sum(tl.where(column == j, A, 0.0), axis=2)
        pivot = tl.sum(tl.where(row == j, T, 0.0), axis=1)
        T -= factor[:, :, None] * pivot[:, None, :]
    return T


@triton.jit
def _add_product(total, a, b, WIDE: tl.constexpr):
    """``total + a @ b`` of fp32 to 16 bits, if ``WIDE`` to 24, by products of bf16 parts."""
    high, low = _halves(a)
    upper, lower = _halves(b)
    if WIDE:
        least, last = _rest(a, high, low), _rest(b, upper, lower)
        total = add_dot(add_dot(add_dot(total, low, lower), high, last), least, upper)
    return add_dot(add_dot(add_dot(total, low, upper), high, lower), high, upper)


@triton.jit
def _halves(x):
    """Two bf16 whose sum is fp32 ``x`` to 16 bits."""
    high = x.to(tl.bfloat16)
    return high, _rest(x, high, tl.zeros_like(high))


@triton.jit
def _rest(x, high, low):
    """bf16 of what two others leave of ``x``."""
    return (x - high.to(tl.float32) - low.to(tl.float32)).to(tl.bfloat16)
