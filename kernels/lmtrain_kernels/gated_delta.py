"""Gated delta rule over packed documents, as one operation with a gradient.

``S_t = e^(g_t) (I - beta_t k_t k_t^T) S_(t-1) + beta_t k_t v_t^T``, ``o_t = S_t^T q_t``: Yang et
al. 2025 (arXiv 2412.06464), section 3.3. Of a forward pass only the inputs, the cumulative decays,
the inverses of chunks, and what links the segments of long documents are kept; the rest is computed
again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmtrain_kernels.delta_backward import (
    begin_backward,
    cosummarize_segments,
    leave_segments,
    pass_d_states,
)
from lmtrain_kernels.delta_forward import forward
from lmtrain_kernels.delta_gradients import gradients
from lmtrain_kernels.delta_prepare import Prepared, recompute
from lmtrain_kernels.delta_states import pass_states
from lmtrain_kernels.operators import check_scan, operator
from lmtrain_kernels.table import ChunkTable


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    beta: Tensor,
    table: ChunkTable,
    initial: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs ``[t, h, vd]`` in the dtype of ``v`` and the state ``[h, kd, vd]`` after the span.

    Args:
        q: ``[t, g, kd]`` scaled queries.
        k: ``[t, g, kd]`` keys of norm <= 1.
        v: ``[t, h, vd]`` values; head i has key head ``i // (h / g)``.
        decay: ``[t, h]`` log decays (<= 0).
        beta: ``[t, h]`` in [0, 2].
        table: chunks of 64 tokens.
        initial: ``[h, kd, vd]`` that enters the first document; None for zero.

    Raises:
        ValueError: the table has other chunks, shapes or dtypes do not fit, or a head is wider than
            256.
    """
    check_scan(q, k, v, initial)
    return _scan(q, k, v, decay, beta, initial, *table)[:2]


@torch.library.custom_op("lmtrain::gated_delta", mutates_args=())
def _gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    beta: Tensor,
    initial: Tensor | None,
    chunks: Tensor,
    segments: Tensor,
    linked: Tensor,
    documents: Tensor,
    size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Also what the backward pass keeps: all else of ``Forward``."""
    table = ChunkTable(chunks, segments, linked, documents, size)
    q, k, v = (x.contiguous() for x in (q, k, v))
    decay, beta = (x.float().contiguous() for x in (decay, beta))
    return forward(q, k, v, decay, beta, table, initial)


@_gated_delta.register_fake
def _(
    _: Tensor, k: Tensor, v: Tensor, __: Tensor, ___: Tensor, initial: Tensor | None, *table: Any
) -> tuple[Tensor, ...]:
    (t, heads, value), key, size = v.shape, k.shape[2], table[-1]
    linked = table[2].shape[0]
    entered = linked or (0 if initial is None else 1)
    final = v.new_empty(heads, key, value, dtype=torch.float32)
    total, transition = final.new_empty(t, heads), final.new_empty(linked, heads, key, key)
    inverse, entering = k.new_empty(t, heads, size), final.new_empty(entered, heads, key, value)
    return v.new_empty(v.shape), final, total, inverse, transition, entering


@torch.library.custom_op("lmtrain::gated_delta_backward", mutates_args=())
def _gated_delta_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    total: Tensor,
    inverse: Tensor,
    transition: Tensor,
    entering: Tensor,
    d_out: Tensor,
    d_final: Tensor | None,
    chunks: Tensor,
    segments: Tensor,
    linked: Tensor,
    documents: Tensor,
    size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``q, k, v, decay, beta, initial``, the last three in fp32."""
    table = ChunkTable(chunks, segments, linked, documents, size)
    q, k, v, d_out = (x.contiguous() for x in (q, k, v, d_out))
    beta = beta.float().contiguous()
    prepared = Prepared(total, inverse, *recompute(k, v, beta, total, inverse, table))
    passed = pass_states(k, prepared, table, entering)
    d_written = begin_backward(q, k, total, d_out, table)
    local = cosummarize_segments(q, k, prepared, d_out, d_written, table)
    leaving = leave_segments(transition, local, table, d_final)
    d_states, d_written, d_initial = pass_d_states(q, k, prepared, d_out, d_written, table, leaving)
    found = gradients(
        *(q, k, v, beta, prepared, passed.states, passed.written),
        *(d_out, d_written, d_states, table),
    )
    return *found, d_initial


@_gated_delta_backward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    total = rest[1]
    d_initial = total.new_empty(v.shape[1], k.shape[2], v.shape[2])
    return *(x.new_empty(x.shape) for x in (q, k, v, total, total)), d_initial


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, decay, beta, initial, *tables, size = inputs
    kept = output[2:]
    ctx.save_for_backward(q, k, v, beta, *kept, *tables)
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)
    ctx.size, ctx.decay = size, decay.dtype
    ctx.initial = None if initial is None else initial.dtype


def _differentiate(
    backward: Any, ctx: Any, d_out: Tensor | None, d_final: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    q, k, v, beta, total, inverse, transition, entering, *tables = ctx.saved_tensors
    d_out = torch.zeros_like(v) if d_out is None else d_out
    dq, dk, dv, d_decay, d_beta, d_initial = backward(
        *(q, k, v, beta, total, inverse, transition, entering, d_out, d_final, *tables),
        ctx.size,
    )
    d_initial = None if ctx.initial is None else d_initial.to(ctx.initial)
    grads = dq, dk, dv, d_decay.to(ctx.decay), d_beta.to(beta.dtype), d_initial
    return *grads, None, None, None, None, None


_scan = operator(_gated_delta, _gated_delta_backward, _save, _differentiate)
