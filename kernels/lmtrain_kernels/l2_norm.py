"""L2 norm of heads: what Gated DeltaNet does to queries and keys, read once and written once."""

# What a kernel holds is known to Triton's compiler only.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lmtrain_kernels.dots import padded, parts
from lmtrain_kernels.operators import operator
from lmtrain_kernels.pointwise import DTYPES
from lmtrain_kernels.tuned import tuned

MOST_WIDTH = 1024


def l2_norm(x: Tensor, scale: float = 1.0, eps: float = 1e-6) -> Tensor:
    """``scale * x / sqrt(sum(x²) + eps)`` over the last dimension, in fp32: ``[t, h, d]``.

    Args:
        x: ``[t, h, d]`` bf16, fp16 or fp32; tokens may lie apart (a slice of a projection).
        scale: of the result.
        eps: added to the sum of squares.

    Returns:
        Contiguous, in the dtype of ``x``.

    Raises:
        ValueError: another shape, dtype or stride, or heads wider than 1024.
    """
    if x.ndim != 3 or x.shape[2] > MOST_WIDTH or x.dtype not in DTYPES or not _packed(x):
        raise ValueError(
            f"x must be [t, h, d] of bf16, fp16 or fp32 with d <= {MOST_WIDTH} and neighbouring "
            f"heads, got {x.dtype} {list(x.shape)} of strides {x.stride()}"
        )
    return _normalize(x, scale, eps)


def _packed(x: Tensor) -> bool:
    return x.stride(2) == 1 and x.stride(1) == x.shape[2]


@torch.library.custom_op("lmtrain::l2_norm", mutates_args=())
def _l2_norm(x: Tensor, scale: float, eps: float) -> Tensor:
    y = x.new_empty(x.shape)
    _launch(x, None, y, scale, eps)
    return y


@_l2_norm.register_fake
def _(x: Tensor, _scale: float, _eps: float) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("lmtrain::l2_norm_backward", mutates_args=())
def _l2_norm_backward(d_out: Tensor, x: Tensor, scale: float, eps: float) -> Tensor:
    dx = x.new_empty(x.shape)
    _launch(x, d_out if _packed(d_out) else d_out.contiguous(), dx, scale, eps)
    return dx


@_l2_norm_backward.register_fake
def _(_d_out: Tensor, x: Tensor, _scale: float, _eps: float) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:  # noqa: ARG001
    x, ctx.scale, ctx.eps = inputs
    ctx.save_for_backward(x)


def _differentiate(backward: Any, ctx: Any, d_out: Tensor) -> tuple[Tensor, None, None]:
    (x,) = ctx.saved_tensors
    return backward(d_out, x, ctx.scale, ctx.eps), None, None


_normalize = operator(_l2_norm, _l2_norm_backward, _save, _differentiate)


def _launch(x: Tensor, d_out: Tensor | None, y: Tensor, scale: float, eps: float) -> None:
    """Into ``y``: the norm, or its gradient."""
    t, heads, width = x.shape
    block = padded(width)
    launch = tuned("l2_norm", x.device, width=block)
    rows = max(1, launch.pop("NUMBERS") // block)
    d_stride = 0 if d_out is None else d_out.stride(0)
    _kernel[(parts(t * heads, rows),)](
        *(x, d_out, y, t * heads, x.stride(0), d_stride, scale, eps),
        HEADS=heads,
        WIDTH=width,
        ROWS=rows,
        BLOCK=block,
        GRADIENT=d_out is not None,
        **launch,
    )


@triton.jit
def _rows(pointer, first, count, stride, HEADS: tl.constexpr, WIDTH: tl.constexpr,
          ROWS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Heads of tokens in order, ``[ROWS, BLOCK]`` in fp32, zero where there are none."""
    row, column = first + tl.arange(0, ROWS), tl.arange(0, BLOCK)[None]
    at = (row // HEADS).to(tl.int64) * stride + row % HEADS * WIDTH
    kept = (row < count)[:, None] & (column < WIDTH)
    return tl.load(pointer + at[:, None] + column, mask=kept, other=0.0).to(tl.float32)


@triton.jit
def _keep(pointer, y, first, count, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row, column = first + tl.arange(0, ROWS), tl.arange(0, BLOCK)[None]
    at = row.to(tl.int64)[:, None] * WIDTH + column
    kept = (row < count)[:, None] & (column < WIDTH)
    tl.store(pointer + at, y.to(pointer.dtype.element_ty), mask=kept)


@triton.jit(do_not_specialize=["count"])
def _kernel(x, d_out, y, count, stride, d_stride, scale, eps, HEADS: tl.constexpr,
            WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
            GRADIENT: tl.constexpr):  # fmt: skip
    """``Y = scale n X``, or ``dX = scale n (dY - n² <dY, X> X)``, with ``n`` the inverse norm."""
    first = tl.program_id(0) * ROWS
    X = _rows(x, first, count, stride, HEADS, WIDTH, ROWS, BLOCK)
    norm = tl.rsqrt(tl.sum(X * X, 1, keep_dims=True) + eps)
    if GRADIENT:
        dY = _rows(d_out, first, count, d_stride, HEADS, WIDTH, ROWS, BLOCK)
        X = dY - tl.sum(X * dY, 1, keep_dims=True) * norm * norm * X
    _keep(y, X * (scale * norm), first, count, WIDTH, ROWS, BLOCK)
