"""The kernels of the short convolution.

Outputs come in up to three parts of neighbouring channels, each a tensor of its own: what follows
takes ``q``, ``k`` and ``v`` apart, and would copy them and their gradients. A program computes a
block of channels of one part.

The forward adds shifted tiles, all but one of which come from the cache of the multiprocessor. The
backward computes again what enters the SiLU: its programs walk down the tokens and keep the last
inputs, and the gradients that are not complete yet, in registers, so that it reads ``x`` and
``d_out`` once.
"""

# What a kernel holds is known to Triton's compiler only.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from lmtrain_kernels.dots import parts
from lmtrain_kernels.pointwise import sigmoid

_blocks = triton.constexpr_function(parts)


@triton.jit
def _place(block, W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, BLOCK: tl.constexpr):
    """The part that a block of channels is in, its columns there and among all, and which exist."""
    B0: tl.constexpr = _blocks(W0, BLOCK)
    B1: tl.constexpr = _blocks(W1, BLOCK)
    part = (block >= B0).to(tl.int32) + (block >= B0 + B1).to(tl.int32)
    within = (block - _pick(part, 0, B0, B0 + B1)) * BLOCK + tl.arange(0, BLOCK)
    column = _pick(part, 0, W0, W0 + W1) + within
    return part, within, column, within < _pick(part, W0, W1, W2)


@triton.jit
def _pick(part, a, b, c):
    """That of a part."""
    return tl.where(part == 0, a, tl.where(part == 1, b, c))


@triton.jit(do_not_specialize=["tokens"])
def forward(
    x_pointer,
    weight_pointer,
    bias_pointer,
    position_pointer,
    y0_pointer,
    y1_pointer,
    y2_pointer,
    tokens,
    STRIDE: tl.constexpr,
    W0: tl.constexpr,
    W1: tl.constexpr,
    W2: tl.constexpr,
    TAPS: tl.constexpr,
    SILU: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A tile of ``ROWS`` tokens and ``BLOCK`` channels; neighbouring programs share rows."""
    CHANNELS: tl.constexpr = W0 + W1 + W2
    BLOCKS: tl.constexpr = _blocks(W0, BLOCK) + _blocks(W1, BLOCK) + _blocks(W2, BLOCK)
    first = (tl.program_id(0) // BLOCKS).to(tl.int64) * ROWS
    part, within, column, channel = _place(tl.program_id(0) % BLOCKS, W0, W1, W2, BLOCK)
    row = tl.arange(0, ROWS)
    inside = row < tl.minimum(tokens - first, ROWS).to(tl.int32)
    reach = row + tl.minimum(first, TAPS).to(tl.int32)  # rows above that exist, where they matter
    if position_pointer is not None:
        position = tl.load(position_pointer + first + row, mask=inside, other=0)
        reach = tl.minimum(reach, position)
    source = x_pointer + first * STRIDE + row[:, None] * STRIDE + column[None]
    taps, tiles = (), ()  # every load is on its way before the first is waited for
    for lag in tl.static_range(TAPS):
        tap = weight_pointer + (TAPS - 1 - lag) * CHANNELS + column
        taps = taps + (tl.load(tap, mask=channel, other=0.0),)
        kept = (inside & (reach >= lag))[:, None] & channel[None]
        tiles = tiles + (tl.load(source - lag * STRIDE, mask=kept, other=0.0),)
    y = tl.zeros([ROWS, BLOCK], tl.float32)
    for lag in tl.static_range(TAPS):
        y += tiles[lag].to(tl.float32) * taps[lag].to(tl.float32)[None]
    if bias_pointer is not None:
        y += tl.load(bias_pointer + column, mask=channel, other=0.0).to(tl.float32)[None]
    if SILU:
        y *= sigmoid(y)
    y_pointer, width = _pick(part, y0_pointer, y1_pointer, y2_pointer), _pick(part, W0, W1, W2)
    target = y_pointer + first * width + row[:, None] * width + within[None]
    tl.store(target, y.to(y_pointer.dtype.element_ty), mask=inside[:, None] & channel[None])


@triton.jit(do_not_specialize=["tokens"])
def backward(
    d0_pointer,
    d1_pointer,
    d2_pointer,
    x_pointer,
    weight_pointer,
    bias_pointer,
    position_pointer,
    dx_pointer,
    partial_pointer,
    tokens,
    STRIDE: tl.constexpr,
    S0: tl.constexpr,
    S1: tl.constexpr,
    S2: tl.constexpr,
    W0: tl.constexpr,
    W1: tl.constexpr,
    W2: tl.constexpr,
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
    CHANNELS: tl.constexpr = W0 + W1 + W2
    BLOCKS: tl.constexpr = _blocks(W0, BLOCK) + _blocks(W1, BLOCK) + _blocks(W2, BLOCK)
    program = tl.program_id(0) // BLOCKS
    first = program.to(tl.int64) * (WALKS * ROWS)
    part, within, column, channel = _place(tl.program_id(0) % BLOCKS, W0, W1, W2, BLOCK)
    column, channel = column[None], channel[None]
    walk = (tl.arange(0, WALKS) * ROWS)[:, None]
    above = -tl.minimum(first, TAPS).to(tl.int32)  # rows that exist, where they matter
    below = tl.minimum(tokens - first, WALKS * ROWS + TAPS).to(tl.int32)
    x_pointer += first * STRIDE + column
    d_stride = _pick(part, S0, S1, S2)
    d_out_pointer = (
        _pick(part, d0_pointer, d1_pointer, d2_pointer) + first * d_stride + within[None]
    )
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
        x = tl.load(x_pointer + (walk - lag) * STRIDE, mask=kept, other=0.0)
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
            xs = xs + (tl.load(x_pointer + row * STRIDE, mask=kept, other=0.0),)
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
        x = tl.load(x_pointer + row * STRIDE, mask=kept, other=0.0)
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
        gate = sigmoid(before)
        d *= gate * (1 + before * (1 - gate))
    sums = (d * taps[0],)
    for lag in tl.static_range(1, TAPS):
        reached = d
        if DOCUMENTS:
            reached = tl.where(position >= lag, d, 0.0)
        sums = sums + (due[lag - 1] + reached * taps[lag],)
    return window, d, sums


@triton.jit
def step(
    x_pointer,
    tail_pointer,
    weight_pointer,
    bias_pointer,
    y_pointer,
    after_pointer,
    STRIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One token of each document; the rows of the tail move up by one."""
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    document = (tl.program_id(0) // BLOCKS).to(tl.int64)
    column = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    channel = column < CHANNELS
    tail_pointer += document * ((TAPS - 1) * CHANNELS) + column
    after_pointer += document * ((TAPS - 1) * CHANNELS) + column
    x = tl.load(x_pointer + document * STRIDE + column, mask=channel, other=0.0)
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
        y *= sigmoid(y)
    y_pointer += document * CHANNELS + column
    tl.store(y_pointer, y.to(y_pointer.dtype.element_ty), mask=channel)
