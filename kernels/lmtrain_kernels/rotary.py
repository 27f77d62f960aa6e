"""Rotary positions: pairs of each head turned by angles of its token, in one pass over memory."""

# What a kernel holds is known to Triton's compiler only.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lmtrain_kernels.dots import padded, parts
from lmtrain_kernels.operators import operator
from lmtrain_kernels.pointwise import DTYPES, load, store
from lmtrain_kernels.tuned import tuned

MOST_WIDTH = 1024


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``(a cos - b sin, b cos + a sin, rest)`` of heads ``(a, b, rest)``, in fp32.

    Su et al. 2021 (arXiv 2104.09864), with pairs half a head apart, as in GPT-NeoX and Llama.

    Args:
        x: ``[t, h, d]`` bf16, fp16 or fp32; tokens may lie apart (a slice of a projection).
        cos: ``[t, 1, n]`` fp32 of ``n <= d / 2`` pairs; what is behind them stays. No gradient.
        sin: as ``cos``.

    Returns:
        Contiguous, in the dtype of ``x``.

    Raises:
        ValueError: another shape, dtype or stride, or heads wider than 1024.
    """
    if x.ndim != 3 or x.dtype not in DTYPES or not _packed(x) or x.shape[2] > MOST_WIDTH:
        raise ValueError(
            f"x must be [t, h, d] of bf16, fp16 or fp32 with d <= {MOST_WIDTH} and neighbouring "
            f"heads, got {x.dtype} {list(x.shape)} of strides {x.stride()}"
        )
    for name, table in (("cos", cos), ("sin", sin)):
        fits = table.ndim == 3 and table.shape[:2] == (len(x), 1) and table.shape == cos.shape
        if not fits or 2 * table.shape[2] > x.shape[2] or table.dtype != torch.float32:
            raise ValueError(
                f"{name} must be fp32 [{len(x)}, 1, n] with n <= {x.shape[2] // 2}, "
                f"got {table.dtype} {list(table.shape)}"
            )
    return _turn(x, cos.contiguous(), sin.contiguous(), False)


def _packed(x: Tensor) -> bool:
    return x.stride(2) == 1 and x.stride(1) == x.shape[2]


@torch.library.custom_op("lmtrain::rotary", mutates_args=())
def _rotary(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    """``back`` turns the other way, which is the gradient."""
    x = x if _packed(x) else x.contiguous()
    (t, heads, width), pairs = x.shape, cos.shape[2]
    y = x.new_empty(x.shape)
    block = padded(pairs)
    launch = tuned("rotary", x.device)
    rows = max(1, launch.pop("NUMBERS") // block)
    _kernel[(parts(t * heads, rows),)](
        *(x, cos, sin, y, t * heads, x.stride(0)),
        HEADS=heads,
        WIDTH=width,
        PAIRS=pairs,
        ROWS=rows,
        BLOCK=block,
        REST=padded(width - 2 * pairs) if width > 2 * pairs else 0,
        BACK=back,
        **launch,
    )
    return y


@_rotary.register_fake
def _(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    _, cos, sin, ctx.back = inputs
    ctx.save_for_backward(cos, sin)


def _differentiate(backward: Any, ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
    cos, sin = ctx.saved_tensors
    return backward(d_out, cos, sin, not ctx.back), None, None, None


_turn = operator(_rotary, _rotary, _save, _differentiate)


@triton.jit(do_not_specialize=["count"])
def _kernel(
    x, cos, sin, y, count, stride,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PAIRS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, REST: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    """``ROWS`` heads of tokens in order."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    exists, token, pair = row < count, (row // HEADS).to(tl.int64), tl.arange(0, BLOCK)[None]
    kept = exists & (pair < PAIRS)
    source, target = x + token * stride + row % HEADS * WIDTH, y + row.to(tl.int64) * WIDTH
    a, b = load(source + pair, kept), load(source + PAIRS + pair, kept)
    c, s = load(cos + token * PAIRS + pair, kept), load(sin + token * PAIRS + pair, kept)
    if BACK:
        s = -s
    store(target + pair, a * c - b * s, kept)
    store(target + PAIRS + pair, b * c + a * s, kept)
    if REST > 0:
        column = 2 * PAIRS + tl.arange(0, REST)[None]
        kept = exists & (column < WIDTH)
        store(target + column, load(source + column, kept), kept)
