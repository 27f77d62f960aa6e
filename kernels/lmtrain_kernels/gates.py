"""What the projections of recurrent mixers become before the recurrence, in one pass.

``decay = -e^A_log softplus(dt + bias)`` for both mixers; beside it the betas of Gated DeltaNet, or
the inputs of Mamba-2 times their steps.
"""

# What a kernel holds is known to Triton's compiler only.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lmtrain_kernels.dots import padded, parts
from lmtrain_kernels.operators import operator
from lmtrain_kernels.pointwise import DTYPES, load, sigmoid, store
from lmtrain_kernels.tuned import tuned

MOST_WIDTH = 1024


def delta_gates(
    dt: Tensor, beta: Tensor, bias: Tensor, A_log: Tensor, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """``-e^A_log softplus(dt + bias)`` and ``scale sigmoid(beta)``: both ``[t, h]`` in fp32.

    Yang et al. 2025 (arXiv 2412.06464), section 3.4, with the decay of Mamba-2.

    Args:
        dt: ``[t, h]`` bf16, fp16 or fp32; tokens may lie apart (a slice of a projection).
        beta: as ``dt``.
        bias: ``[h]``, of any floating dtype.
        A_log: as ``bias``.
        scale: the largest beta.

    Raises:
        ValueError: another shape, dtype or stride.
    """
    _check(dt, bias, A_log)
    if beta.shape != dt.shape or beta.dtype not in DTYPES or beta.stride(1) != 1:
        raise ValueError(
            f"beta must be {list(dt.shape)} of bf16, fp16 or fp32 with neighbouring heads, got "
            f"{beta.dtype} {list(beta.shape)} of strides {beta.stride()}"
        )
    decay, beta, _ = _gates(dt, bias.contiguous(), A_log.contiguous(), beta, None, scale)
    return decay, beta


def discretize(u: Tensor, dt: Tensor, bias: Tensor, A_log: Tensor) -> tuple[Tensor, Tensor]:
    """``step u [t, h, p]`` in the dtype of ``u``, and ``-e^A_log step [t, h]`` in fp32.

    ``step = softplus(dt + bias)``: Dao and Gu 2024 (arXiv 2405.21060), section 7.

    Args:
        u: ``[t, h, p]`` bf16, fp16 or fp32; tokens may lie apart.
        dt: ``[t, h]``, likewise.
        bias: ``[h]``, of any floating dtype.
        A_log: as ``bias``.

    Raises:
        ValueError: another shape, dtype or stride, or heads wider than 1024.
    """
    _check(dt, bias, A_log)
    fits = u.ndim == 3 and u.shape[:2] == dt.shape and u.shape[2] <= MOST_WIDTH
    if not fits or u.dtype not in DTYPES or not _packed(u):
        raise ValueError(
            f"u must be {[*dt.shape, 'p']} of bf16, fp16 or fp32 with p <= {MOST_WIDTH} and "
            f"neighbouring heads, got {u.dtype} {list(u.shape)} of strides {u.stride()}"
        )
    decay, _, scaled = _gates(dt, bias.contiguous(), A_log.contiguous(), None, u, 1.0)
    return scaled, decay


def _check(dt: Tensor, bias: Tensor, A_log: Tensor) -> None:
    if dt.ndim != 2 or dt.dtype not in DTYPES or dt.stride(1) != 1:
        raise ValueError(
            "dt must be [t, h] of bf16, fp16 or fp32 with neighbouring heads, got "
            f"{dt.dtype} {list(dt.shape)} of strides {dt.stride()}"
        )
    for name, parameter in (("bias", bias), ("A_log", A_log)):
        if parameter.shape != dt.shape[1:]:
            raise ValueError(f"{name} must be [{dt.shape[1]}], got {list(parameter.shape)}")


def _packed(x: Tensor) -> bool:
    return x.stride(2) == 1 and x.stride(1) == x.shape[2]


@torch.library.custom_op("lmtrain::gates", mutates_args=())
def _gates_forward(
    dt: Tensor, bias: Tensor, A_log: Tensor, beta: Tensor | None, u: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Decays, betas and scaled ``u``; of what there is none of, nothing."""
    outputs = _outputs(dt, beta, u)
    _launch(_forward, dt, beta, u, (dt, bias, A_log, beta, u, *outputs), scale)
    return outputs


@_gates_forward.register_fake
def _(
    dt: Tensor, _: Tensor, __: Tensor, beta: Tensor | None, u: Tensor | None, ___: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(dt, beta, u)


def _outputs(dt: Tensor, beta: Tensor | None, u: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    decay = dt.new_empty(dt.shape, dtype=torch.float32)
    betas = decay.new_empty(0 if beta is None else dt.shape)
    return decay, betas, dt.new_empty(0) if u is None else u.new_empty(u.shape)


@torch.library.custom_op("lmtrain::gates_backward", mutates_args=())
def _gates_backward(
    d_decay: Tensor,
    d_betas: Tensor,
    d_scaled: Tensor,
    dt: Tensor,
    bias: Tensor,
    A_log: Tensor,
    beta: Tensor | None,
    u: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``dt, beta, u``, and ``[2, h]`` fp32: of ``bias`` and ``A_log``."""
    given = [d.contiguous() for d in (d_decay, d_betas, d_scaled)]
    d_dt, d_beta, du, sums = _gradients(dt, beta, u, dt.shape)
    everything = (*given, dt, bias, A_log, beta, u, d_dt, d_beta, du, sums)
    _launch(_backward, dt, beta, u, everything, scale)
    return d_dt, d_beta, du, sums.sum(1)


@_gates_backward.register_fake
def _(
    _: Tensor, __: Tensor, ___: Tensor, dt: Tensor, bias: Tensor, ____: Tensor,
    beta: Tensor | None, u: Tensor | None, _____: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return _gradients(dt, beta, u, bias.shape)


def _gradients(
    dt: Tensor, beta: Tensor | None, u: Tensor | None, shape: torch.Size
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d_beta, du = (dt.new_empty(0) if x is None else x.new_empty(x.shape) for x in (beta, u))
    return dt.new_empty(dt.shape), d_beta, du, dt.new_empty(2, *shape, dtype=torch.float32)


def _launch(
    kernel: Any, dt: Tensor, beta: Tensor | None, u: Tensor | None, tensors: Any, scale: float
) -> None:
    t, heads = dt.shape
    block = 1 if u is None else padded(u.shape[2])
    launch = tuned("gates", dt.device, width=block)
    rows = max(1, launch.pop("NUMBERS") // block)
    strides = (0 if x is None else x.stride(0) for x in (dt, beta, u))
    kernel[(parts(t * heads, rows),)](
        *tensors,
        t * heads,
        *strides,
        scale,
        HEADS=heads,
        WIDTH=0 if u is None else u.shape[2],
        ROWS=rows,
        BLOCK=block,
        **launch,
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(backward: Any, ctx: Any, *d_outputs: Tensor) -> tuple[Tensor | None, ...]:
    dt, bias, A_log, beta, u = ctx.saved_tensors
    d_dt, d_beta, du, sums = backward(*d_outputs, dt, bias, A_log, beta, u, ctx.scale)
    d_bias, d_A_log = sums[0].to(bias.dtype), sums[1].to(A_log.dtype)
    d_beta, du = None if beta is None else d_beta, None if u is None else du
    return d_dt, d_bias, d_A_log, d_beta, du, None


_gates = operator(_gates_forward, _gates_backward, _save, _differentiate)


@triton.jit
def _softplus(x):
    """``log(1 + e^x)``.

    Near one, a logarithm of fp32 has lost what a small ``e^-|x|`` adds: its series in
    ``z = e^-|x| / (2 + e^-|x|) <= 1/3`` has not.
    """
    small = tl.exp2(-tl.abs(x) * 1.4426950408889634)
    z = small / (2 + small)
    square, series = z * z, 1.0 / 15
    for i in tl.static_range(1, 8):
        series = series * square + 1.0 / (15 - 2 * i)
    return tl.maximum(x, 0.0) + 2 * z * series


@triton.jit
def _steps(dt, bias, A_log, row, exists, stride, HEADS: tl.constexpr):
    """``dt + bias`` and ``-e^A_log`` of heads of tokens in order."""
    token, head = (row // HEADS).to(tl.int64), row % HEADS
    x = load(dt + token * stride + head, exists) + load(bias + head, exists)
    return x, -tl.exp2(load(A_log + head, exists) * 1.4426950408889634)


@triton.jit(do_not_specialize=["count"])
def _forward(
    dt, bias, A_log, beta, u, decay, betas, scaled, count, dt_stride, beta_stride, u_stride, scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``ROWS`` heads of tokens in order."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    exists, token, head = row < count, (row // HEADS).to(tl.int64), row % HEADS
    x, rate = _steps(dt, bias, A_log, row, exists, dt_stride, HEADS)
    step = _softplus(x)
    store(decay + row, rate * step, exists)
    if beta is not None:
        opened = sigmoid(load(beta + token * beta_stride + head, exists))
        store(betas + row, scale * opened, exists)
    if u is not None:
        column = tl.arange(0, BLOCK)[None]
        kept = exists[:, None] & (column < WIDTH)
        U = load(u + (token * u_stride + head * WIDTH)[:, None] + column, kept)
        store(scaled + row.to(tl.int64)[:, None] * WIDTH + column, U * step[:, None], kept)


@triton.jit(do_not_specialize=["count"])
def _backward(
    d_decay, d_betas, d_scaled, dt, bias, A_log, beta, u, d_dt, d_beta, du, sums,
    count, dt_stride, beta_stride, u_stride, scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``sums``: what each head of each token adds to the gradients of ``bias`` and ``A_log``."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    exists, token, head = row < count, (row // HEADS).to(tl.int64), row % HEADS
    x, rate = _steps(dt, bias, A_log, row, exists, dt_stride, HEADS)
    step, d = _softplus(x), load(d_decay + row, exists)
    d_step = d * rate
    if u is not None:
        column = tl.arange(0, BLOCK)[None]
        kept = exists[:, None] & (column < WIDTH)
        at = row.to(tl.int64)[:, None] * WIDTH + column
        U = load(u + (token * u_stride + head * WIDTH)[:, None] + column, kept)
        D = load(d_scaled + at, kept)
        d_step += tl.sum(U * D, 1)
        store(du + at, D * step[:, None], kept)
    d_x = d_step * sigmoid(x)
    store(d_dt + row, d_x, exists)
    store(sums + row, d_x, exists)
    store(sums + count + row, d * rate * step, exists)
    if beta is not None:
        opened = sigmoid(load(beta + token * beta_stride + head, exists))
        store(d_beta + row, load(d_betas + row, exists) * scale * opened * (1 - opened), exists)
