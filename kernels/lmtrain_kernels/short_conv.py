"""Short causal depthwise convolution with SiLU, documents kept apart.

One launch serves all channels, so ``q``, ``k`` and ``v`` are convolved together. The forward adds
shifted tiles, all but one of which come from the cache of the multiprocessor. The backward computes
again what enters the SiLU: its programs walk down the tokens and keep the last inputs, and the
gradients that are not complete yet, in registers, so ``x`` and ``d_out`` are read once.
"""

# What a kernel holds is known to Triton's compiler only.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lmtrain_kernels.tuned import tuned

MOST_TAPS = 8
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def short_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    position: Tensor | None = None,
    *,
    silu: bool = True,
) -> Tensor:
    """``silu(conv(x) + bias)``: ``x [t, c], weight [taps, c], bias [c] or None -> [t, c]``.

    The last tap meets the token itself. The tap at lag ``l`` of token ``i`` meets ``x[i - l]`` if
    ``position[i] >= l`` and ``i >= l``, else zero.

    Args:
        x: bf16, fp16 or fp32; rows may be strided (a slice of a projection), channels may not.
        weight: at most 8 taps, of any floating dtype; sums are in fp32.
        bias: added before the SiLU.
        position: int32 ``[t]``, the offset of each token in its document; None is one document.
        silu: False gives the convolution alone.

    Raises:
        ValueError: a shape, dtype or stride other than these.
    """
    _check(x, weight, bias)
    if position is not None and (position.shape != x.shape[:1] or position.dtype != torch.int32):
        raise ValueError(
            f"position must be int32 [{len(x)}], one number a token, "
            f"got {position.dtype} {list(position.shape)}"
        )
    bias, position = (None if y is None else y.contiguous() for y in (bias, position))
    return _short_conv(x, weight, bias, position, silu)


def short_conv_step(
    tail: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, silu: bool = True
) -> tuple[Tensor, Tensor]:
    """The outputs ``[b, c]`` of the next token ``x [b, c]`` of ``b`` documents, and the next tail.

    ``tail [b, taps - 1, c]`` holds the inputs before it, zero where a document is shorter. There
    are no gradients.

    Raises:
        ValueError: as for ``short_conv``, or a tail of another shape or dtype.
    """
    _check(x, weight, bias)
    (b, c), taps = x.shape, len(weight)
    if tail.shape != (b, taps - 1, c) or tail.dtype != x.dtype or not tail.is_contiguous():
        raise ValueError(
            f"tail must be contiguous {x.dtype} {[b, taps - 1, c]}, "
            f"got {tail.dtype} {list(tail.shape)}"
        )
    y, after = x.new_empty(b, c), torch.empty_like(tail)
    launch = tuned("short_conv_step", x.device, taps=taps)
    grid = (triton.cdiv(c, launch["BLOCK"]) * b,)
    _step[grid](x, tail, weight, bias, y, after, x.stride(0), c, taps, silu, **launch)
    return y, after


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if x.ndim != 2 or x.dtype not in DTYPES or x.stride(1) != 1:
        raise ValueError(
            "x must be [t, c] of bf16, fp16 or fp32 with neighbouring channels, got "
            f"{x.dtype} {list(x.shape)} of strides {x.stride()}: cast it or make it contiguous"
        )
    if weight.ndim != 2 or not 1 <= len(weight) <= MOST_TAPS or weight.shape[1] != x.shape[1]:
        raise ValueError(
            f"weight must be [taps, {x.shape[1]}] with at most {MOST_TAPS} taps, "
            f"got {list(weight.shape)}"
        )
    if bias is not None and bias.shape != x.shape[1:]:
        raise ValueError(f"bias must be [{x.shape[1]}], got {list(bias.shape)}")


@torch.library.custom_op("lmtrain::short_conv", mutates_args=())
def _short_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, position: Tensor | None, silu: bool
) -> Tensor:
    (t, c), taps = x.shape, len(weight)
    y = x.new_empty(t, c)
    launch = tuned("short_conv_forward", x.device, taps=taps)
    grid = (triton.cdiv(t, launch["ROWS"]) * triton.cdiv(c, launch["BLOCK"]),)
    unit = _unit(x)
    _forward[grid](
        x, weight.contiguous(), bias, position, y, t, x.stride(0) // unit, unit, c, taps, silu,
        **launch,
    )  # fmt: skip
    return y


@_short_conv.register_fake
def _(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("lmtrain::short_conv_backward", mutates_args=())
def _short_conv_backward(
    d_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    position: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    """``dx [t, c]``, and ``[taps + 1, c]`` fp32: the gradients of the taps and of a bias."""
    (t, c), taps = x.shape, len(weight)
    d_out = d_out if d_out.stride(1) == 1 else d_out.contiguous()
    launch = tuned("short_conv_backward", x.device, taps=taps)
    programs = triton.cdiv(t, launch["WALKS"] * launch["ROWS"])
    dx = x.new_empty(t, c)
    partial = x.new_empty(programs, taps + 1, c, dtype=torch.float32)
    grid = (programs * triton.cdiv(c, launch["BLOCK"]),)
    unit, d_unit = _unit(x), _unit(d_out)
    _backward[grid](
        d_out, x, weight.contiguous(), bias, position, dx, partial, t,
        x.stride(0) // unit, d_out.stride(0) // d_unit, unit, d_unit, c, taps, silu, **launch,
    )  # fmt: skip
    return dx, partial.sum(0)


@_short_conv_backward.register_fake
def _(_d_out: Tensor, x: Tensor, weight: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    sums = x.new_empty(len(weight) + 1, x.shape[1], dtype=torch.float32)
    return x.new_empty(x.shape), sums


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, position = ctx.saved_tensors
    dx, sums = _short_conv_backward(d_out, x, weight, bias, position, ctx.silu)
    d_bias = None if bias is None else sums[-1].to(bias.dtype)
    return dx, sums[:-1].to(weight.dtype), d_bias, None, None


_short_conv.register_autograd(_differentiate, setup_context=_save)


def _unit(x: Tensor) -> int:
    """The power of two, at most 8, that divides the distance of rows.

    Triton itself asks only whether it divides by 16; loads of 16 bytes need 8 numbers at most.
    """
    return next(unit for unit in (8, 4, 2, 1) if x.stride(0) % unit == 0)


@triton.jit(do_not_specialize=["tokens"])
def _forward(
    x_pointer,
    weight_pointer,
    bias_pointer,
    position_pointer,
    y_pointer,
    tokens,
    stride,
    UNIT: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    SILU: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A tile of ``ROWS`` tokens and ``BLOCK`` channels; neighbouring programs share rows."""
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    first = (tl.program_id(0) // BLOCKS).to(tl.int64) * ROWS
    column = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    row = tl.arange(0, ROWS)
    stride = stride * UNIT
    inside = row < tl.minimum(tokens - first, ROWS).to(tl.int32)
    reach = row + tl.minimum(first, TAPS).to(tl.int32)  # rows above that exist, where they matter
    if position_pointer is not None:
        position = tl.load(position_pointer + first + row, mask=inside, other=0)
        reach = tl.minimum(reach, position)
    channel = column < CHANNELS
    source = x_pointer + first * stride + row[:, None] * stride + column[None]
    taps, tiles = (), ()  # every load is on its way before the first is waited for
    for lag in tl.static_range(TAPS):
        tap = weight_pointer + (TAPS - 1 - lag) * CHANNELS + column
        taps = taps + (tl.load(tap, mask=channel, other=0.0),)
        kept = (inside & (reach >= lag))[:, None] & channel[None]
        tiles = tiles + (tl.load(source - lag * stride, mask=kept, other=0.0),)
    y = tl.zeros([ROWS, BLOCK], tl.float32)
    for lag in tl.static_range(TAPS):
        y += tiles[lag].to(tl.float32) * taps[lag].to(tl.float32)[None]
    if bias_pointer is not None:
        y += tl.load(bias_pointer + column, mask=channel, other=0.0).to(tl.float32)[None]
    if SILU:
        y *= _sigmoid(y)
    target = y_pointer + first * CHANNELS + row[:, None] * CHANNELS + column[None]
    tl.store(target, y.to(y_pointer.dtype.element_ty), mask=inside[:, None] & channel[None])


@triton.jit(do_not_specialize=["tokens"])
def _backward(
    d_out_pointer,
    x_pointer,
    weight_pointer,
    bias_pointer,
    position_pointer,
    dx_pointer,
    partial_pointer,
    tokens,
    stride,
    d_stride,
    UNIT: tl.constexpr,
    D_UNIT: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    SILU: tl.constexpr,
    WALKS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """``WALKS`` walks side by side, each down ``ROWS`` tokens and the ``TAPS - 1`` after them.

    ``AHEAD`` rows are loaded before the first of them is used.
    """
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    program = tl.program_id(0) // BLOCKS
    first = program.to(tl.int64) * (WALKS * ROWS)
    column = ((tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK))[None]
    channel = column < CHANNELS
    walk = (tl.arange(0, WALKS) * ROWS)[:, None]
    above = -tl.minimum(first, TAPS).to(tl.int32)  # rows that exist, where they matter
    below = tl.minimum(tokens - first, WALKS * ROWS + TAPS).to(tl.int32)
    stride, d_stride = stride * UNIT, d_stride * D_UNIT
    x_pointer += first * stride + column
    d_out_pointer += first * d_stride + column
    dx_pointer += first * CHANNELS + column
    if position_pointer is not None:
        position_pointer += first

    taps, d_taps, past, due = (), (), (), ()
    d_bias = tl.zeros([WALKS, BLOCK], tl.float32)
    for lag in tl.static_range(TAPS):
        tap = weight_pointer + (TAPS - 1 - lag) * CHANNELS + column
        taps = taps + (tl.load(tap, mask=channel, other=0.0).to(tl.float32),)
        d_taps = d_taps + (tl.zeros([WALKS, BLOCK], tl.float32),)
    for lag in tl.static_range(1, TAPS):
        kept = (walk - lag >= above) & (walk - lag < below) & channel
        x = tl.load(x_pointer + (walk - lag) * stride, mask=kept, other=0.0)
        past = past + (x.to(tl.float32),)
        due = due + (tl.zeros([WALKS, BLOCK], tl.float32),)
    bias = tl.zeros([1, BLOCK], tl.float32)
    if bias_pointer is not None:
        bias += tl.load(bias_pointer + column, mask=channel, other=0.0).to(tl.float32)

    for start in range(0, ROWS, AHEAD):
        xs, ds, positions = (), (), ()
        for i in tl.static_range(AHEAD):
            row = walk + start + i
            kept = (row < below) & channel
            xs = xs + (tl.load(x_pointer + row * stride, mask=kept, other=0.0),)
            ds = ds + (tl.load(d_out_pointer + row * d_stride, mask=kept, other=0.0),)
            positions = positions + (_position(position_pointer, row, below),)
        for i in tl.static_range(AHEAD):
            window, d, sums = _advance(
                xs[i], ds[i], positions[i], taps, bias, past, due,
                position_pointer is not None, TAPS, SILU,
            )  # fmt: skip
            counted = ()
            for lag in tl.static_range(TAPS):
                counted = counted + (d_taps[lag] + d * window[lag],)
            d_taps = counted
            d_bias += d
            row = walk + start + i - (TAPS - 1)
            kept = (row >= walk) & (row < below) & channel
            dx = sums[TAPS - 1].to(dx_pointer.dtype.element_ty)
            tl.store(dx_pointer + row * CHANNELS, dx, mask=kept)
            past, due = window[: TAPS - 1], sums[: TAPS - 1]

    for i in tl.static_range(TAPS - 1):  # tokens of the next walk, for the gradients still due
        row = walk + ROWS + i
        kept = (row < below) & channel
        x = tl.load(x_pointer + row * stride, mask=kept, other=0.0)
        d = tl.load(d_out_pointer + row * d_stride, mask=kept, other=0.0)
        position = _position(position_pointer, row, below)
        window, d, sums = _advance(
            x, d, position, taps, bias, past, due, position_pointer is not None, TAPS, SILU
        )
        row = row - (TAPS - 1)
        kept = (row < below) & channel
        dx = sums[TAPS - 1].to(dx_pointer.dtype.element_ty)
        tl.store(dx_pointer + row * CHANNELS, dx, mask=kept)
        past, due = window[: TAPS - 1], sums[: TAPS - 1]

    partial_pointer += program.to(tl.int64) * ((TAPS + 1) * CHANNELS) + column
    for lag in tl.static_range(TAPS):
        partial = tl.sum(d_taps[lag], 0, keep_dims=True)
        tl.store(partial_pointer + (TAPS - 1 - lag) * CHANNELS, partial, mask=channel)
    partial = tl.sum(d_bias, 0, keep_dims=True)
    tl.store(partial_pointer + TAPS * CHANNELS, partial, mask=channel)


@triton.jit
def _position(pointer, row, below):
    if pointer is None:
        position = row  # of no use
    else:
        position = tl.load(pointer + row, mask=row < below, other=0)
    return position


@triton.jit
def _sigmoid(x):
    """``1 / (1 + e^-x)`` in five instructions; a division would double them."""
    root = tl.math.rsqrt(1 + tl.exp2(x * -1.4426950408889634))
    return root * root


@triton.jit
def _advance(
    x, d_out, position, taps, bias, past, due,
    DOCUMENTS: tl.constexpr, TAPS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """One token down a walk.

    Gives the inputs that the taps meet, by lag; the gradient of the sum before SiLU; and what is
    known so far of ``dx`` of this token and the ``TAPS - 1`` before it, of which the last is whole.
    """
    window, before = (x.to(tl.float32),), bias + x.to(tl.float32) * taps[0]
    for lag in tl.static_range(1, TAPS):
        met = past[lag - 1]
        if DOCUMENTS:
            met = tl.where(position >= lag, met, 0.0)
        window = window + (met,)
        before += met * taps[lag]
    d = d_out.to(tl.float32)
    if SILU:
        gate = _sigmoid(before)
        d *= gate * (1 + before * (1 - gate))
    sums = (d * taps[0],)
    for lag in tl.static_range(1, TAPS):
        reached = d
        if DOCUMENTS:
            reached = tl.where(position >= lag, d, 0.0)
        sums = sums + (due[lag - 1] + reached * taps[lag],)
    return window, d, sums


@triton.jit
def _step(
    x_pointer,
    tail_pointer,
    weight_pointer,
    bias_pointer,
    y_pointer,
    after_pointer,
    stride,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    document = (tl.program_id(0) // BLOCKS).to(tl.int64)
    column = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    channel = column < CHANNELS
    tail_pointer += document * ((TAPS - 1) * CHANNELS) + column
    after_pointer += document * ((TAPS - 1) * CHANNELS) + column
    x = tl.load(x_pointer + document * stride + column, mask=channel, other=0.0)
    tap = tl.load(weight_pointer + (TAPS - 1) * CHANNELS + column, mask=channel, other=0.0)
    y = x.to(tl.float32) * tap.to(tl.float32)
    for i in tl.static_range(TAPS - 1):
        row = tl.load(tail_pointer + i * CHANNELS, mask=channel, other=0.0)
        tap = tl.load(weight_pointer + i * CHANNELS + column, mask=channel, other=0.0)
        y += row.to(tl.float32) * tap.to(tl.float32)
        if i > 0:
            tl.store(after_pointer + (i - 1) * CHANNELS, row, mask=channel)
    if TAPS > 1:
        tl.store(after_pointer + (TAPS - 2) * CHANNELS, x, mask=channel)
    if bias_pointer is not None:
        y += tl.load(bias_pointer + column, mask=channel, other=0.0).to(tl.float32)
    if SILU:
        y *= _sigmoid(y)
    y_pointer += document * CHANNELS + column
    tl.store(y_pointer, y.to(y_pointer.dtype.element_ty), mask=channel)
