"""What is compiled ahead of time of the short convolution and the gated norm."""

from __future__ import annotations

import torch

from lmtrain_kernels.short_conv import short_conv, short_conv_step

DTYPES = torch.bfloat16, torch.float32


def convolve() -> None:
    """Forward and backward: the usual four taps, the most, and a projection's odd width."""
    for dtype in DTYPES:
        _convolve(4, 1024, 1024, dtype)
    _convolve(8, 1024, 1024, torch.bfloat16)
    _convolve(4, 1792, 3352, torch.bfloat16, documents=False)
    tail, x, weight = torch.zeros(2, 3, 512), torch.zeros(2, 512), torch.zeros(4, 512)
    short_conv_step(tail.bfloat16(), x.bfloat16(), weight)


def _convolve(
    taps: int, channels: int, width: int, dtype: torch.dtype, *, documents: bool = True
) -> None:
    x = torch.zeros(200, width, dtype=dtype)[:, :channels].requires_grad_()
    weight, bias = torch.zeros(taps, channels), torch.zeros(channels)
    position = torch.arange(200, dtype=torch.int32) if documents else None
    short_conv(x, weight, bias, position).backward(torch.zeros(200, channels, dtype=dtype))
