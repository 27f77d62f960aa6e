"""Scalar-decay recurrence (SSD, Mamba-2) over packed documents, as one operation with a gradient.

``S_t = e^(g_t) S_(t-1) + k_t v_t^T``, ``o_t = S_t^T q_t``: Dao and Gu 2024 (arXiv 2405.21060),
section 6. Of a forward pass only the inputs and the states that enter segments are kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmtrain_kernels.operators import check_scan, operator
from lmtrain_kernels.ssd_backward import backward
from lmtrain_kernels.ssd_forward import forward
from lmtrain_kernels.ssd_segments import enter_segments, summarize_segments
from lmtrain_kernels.table import ChunkTable


def ssd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    table: ChunkTable,
    initial: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs ``[t, h, vd]`` in the dtype of ``v`` and the state ``[h, kd, vd]`` after the span.

    Args:
        q: ``[t, g, kd]`` queries (C of Mamba-2).
        k: ``[t, g, kd]`` keys (B).
        v: ``[t, h, vd]`` values; head i has key head ``i // (h / g)``.
        decay: ``[t, h]`` log decays (<= 0).
        table: chunks of 16, 32, 64 or 128 tokens; results do not depend on which.
        initial: ``[h, kd, vd]`` that enters the first document; None for zero.

    Raises:
        ValueError: shapes or dtypes do not fit, or a head size is below 16 or above 256.
    """
    check_scan(q, k, v, initial)
    return _scan(q, k, v, decay, initial, *table)[:2]


@torch.library.custom_op("lmtrain::ssd", mutates_args=())
def _ssd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    initial: Tensor | None,
    chunks: Tensor,
    segments: Tensor,
    linked: Tensor,
    documents: Tensor,
    size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Also the states that enter segments, which the backward pass keeps."""
    table = ChunkTable(chunks, segments, linked, documents, size)
    q, k, v, decay = (x.contiguous() for x in (q, k, v, decay))
    summary = summarize_segments(k, v, decay, table, reverse=False)
    entering = enter_segments(summary, table, initial, reverse=False)
    out, final = forward(q, k, v, decay, table, entering)
    return out, final, entering


@_ssd.register_fake
def _(
    _: Tensor, k: Tensor, v: Tensor, __: Tensor, initial: Tensor | None, *table: Any
) -> tuple[Tensor, Tensor, Tensor]:
    state = v.shape[1], k.shape[2], v.shape[2]
    entered = table[2].shape[0] or (0 if initial is None else 1)
    final = v.new_empty(state, dtype=torch.float32)
    return v.new_empty(v.shape), final, final.new_empty(entered, *state)


@torch.library.custom_op("lmtrain::ssd_backward", mutates_args=())
def _ssd_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    d_out: Tensor,
    d_final: Tensor | None,
    entering: Tensor,
    chunks: Tensor,
    segments: Tensor,
    linked: Tensor,
    documents: Tensor,
    size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``q, k, v, decay, initial``."""
    table = ChunkTable(chunks, segments, linked, documents, size)
    q, k, v, decay, d_out = (x.contiguous() for x in (q, k, v, decay, d_out.to(v.dtype)))
    summary = summarize_segments(q, d_out, decay, table, reverse=True)
    leaving = enter_segments(summary, table, d_final, reverse=True)
    return backward(q, k, v, decay, d_out, table, entering, leaving)


@_ssd_backward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, *_: Any) -> tuple[Tensor, ...]:
    d_initial = v.new_empty(v.shape[1], k.shape[2], v.shape[2], dtype=torch.float32)
    return *(x.new_empty(x.shape) for x in (q, k, v, decay)), d_initial


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, decay, initial, *tables, size = inputs
    entering = output[2]
    ctx.save_for_backward(q, k, v, decay, entering, *tables)
    ctx.mark_non_differentiable(entering)
    ctx.set_materialize_grads(False)
    ctx.size, ctx.initial = size, None if initial is None else initial.dtype


def _differentiate(
    run: Any, ctx: Any, d_out: Tensor | None, d_final: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    q, k, v, decay, entering, *tables = ctx.saved_tensors
    d_out = torch.zeros_like(v) if d_out is None else d_out
    *grads, d_initial = run(q, k, v, decay, d_out, d_final, entering, *tables, ctx.size)
    d_initial = None if ctx.initial is None else d_initial.to(ctx.initial)
    return *grads, d_initial, None, None, None, None, None


_scan = operator(_ssd, _ssd_backward, _save, _differentiate)
