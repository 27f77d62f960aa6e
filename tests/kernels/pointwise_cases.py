"""What is compiled ahead of time besides recurrences and l2 norms."""

from __future__ import annotations

from itertools import product

import torch

from lmtrain_kernels.add_norm import add_norm
from lmtrain_kernels.gated_norm import gated_norm, rms_norm
from lmtrain_kernels.gates import delta_gates, discretize
from lmtrain_kernels.rotary import rotary
from lmtrain_kernels.short_conv import short_conv, short_conv_step
from lmtrain_kernels.swiglu import swiglu

DTYPES = torch.bfloat16, torch.float32


def convolve() -> None:
    """Forward and backward: the usual four taps, the most, and a projection's odd width."""
    for dtype in DTYPES:
        _convolve(4, 1024, 1024, dtype)
    _convolve(8, 1024, 1024, torch.bfloat16)
    _convolve(4, 1792, 3352, torch.bfloat16, documents=False)
    for widths in (512, 512, 1024), (2048, 128, 128), (192, 192):
        _convolve(4, sum(widths), 4096, torch.bfloat16, widths=widths)
    tail, x, weight = torch.zeros(2, 3, 512), torch.zeros(2, 512), torch.zeros(4, 512)
    short_conv_step(tail.bfloat16(), x.bfloat16(), weight)


def _convolve(
    taps: int,
    channels: int,
    width: int,
    dtype: torch.dtype,
    *,
    documents: bool = True,
    widths: tuple[int, ...] | None = None,
) -> None:
    x = torch.zeros(200, width, dtype=dtype)[:, :channels].requires_grad_()
    weight, bias = torch.zeros(taps, channels), torch.zeros(channels)
    position = torch.arange(200, dtype=torch.int32) if documents else None
    found = short_conv(x, weight, bias, position, widths=widths)
    torch.autograd.backward(found, [torch.zeros_like(y) for y in found])


def open_gates() -> None:
    """Forward and backward of both mixers, heads in slices of a projection."""
    for dtype in DTYPES:
        projected = torch.zeros(50, 64, dtype=dtype, requires_grad=True)
        dt, beta = projected[:, 16:32], projected[:, 32:48]
        parameter = torch.zeros(16)
        decay, betas = delta_gates(dt, beta, parameter, parameter)
        torch.autograd.backward([decay.sum(), betas.sum()])
        u = torch.zeros(50, 16, 64, dtype=dtype, requires_grad=True)
        scaled, decay = discretize(u, dt, parameter, parameter)
        torch.autograd.backward([scaled.sum(), decay.sum()])


def normalize() -> None:
    """Forward and backward: heads and full widths of both mixers, groups, the skip, the widest."""
    for dtype in DTYPES:
        _normalize((50, 4, 64), dtype)
        _normalize((50, 4, 128), dtype)
        _normalize((50, 1, 4096), dtype, gate_first=True)
    _normalize((50, 1, 4096), torch.bfloat16, gate_first=True, skips=64)
    _normalize((50, 8, 1024), torch.bfloat16, gate_first=True, skips=128)
    _normalize((50, 1, 16384), torch.bfloat16, gate_first=True)
    for width in (64, 1024, 2048, 8192):
        x = torch.zeros(50, width, dtype=torch.bfloat16, requires_grad=True)
        rms_norm(x, torch.zeros(width), 1e-6).backward(torch.zeros_like(x))


def add_and_normalize() -> None:
    """Forward and backward of the stream: widths of models, with something to add and without."""
    widths = (768, 1024, 2048, 4096, 8192)
    cases = [*product(DTYPES, widths), (torch.bfloat16, 16384)]
    for dtype, width in cases:
        x = torch.zeros(50, width, dtype=dtype, requires_grad=True)
        for added in (x, None):
            stream, normed = add_norm(x, added, torch.zeros(width), 1e-6)
            torch.autograd.backward([stream.sum(), normed.sum()])


def activate() -> None:
    """Forward and backward, of widths that fill tiles and of one that does not."""
    for dtype in DTYPES:
        for width in (2816, 4096):
            x = torch.zeros(50, 2 * width, dtype=dtype, requires_grad=True)
            swiglu(x).backward(torch.zeros(50, width, dtype=dtype))


def _normalize(
    shape: tuple[int, int, int], dtype: torch.dtype, *, gate_first: bool = False, skips: int = 0
) -> None:
    t, h, d = shape
    x = torch.zeros(shape, dtype=dtype, requires_grad=True)
    projected = torch.zeros(t, 2 * h * d + 24, dtype=dtype)  # 24: what dt takes of a projection
    gate, u = (y.view(shape) for y in projected[:, :-24].unflatten(1, (2, h, d)).unbind(1))
    weight = torch.zeros(h * d if gate_first else d)
    skip = (u, torch.zeros(skips)) if skips else None
    y = gated_norm(x, gate, weight, 1e-6, norm_before_gate=not gate_first, skip=skip)
    y.backward(torch.zeros_like(y))


def turn() -> None:
    """Forward and backward, whole heads and parts of them."""
    for dtype in DTYPES:
        for width, pairs in ((128, 64), (256, 32)):
            x = torch.zeros(50, 4, width, dtype=dtype, requires_grad=True)
            table = torch.zeros(50, 1, pairs)
            rotary(x, table, table).backward(torch.zeros_like(x))
