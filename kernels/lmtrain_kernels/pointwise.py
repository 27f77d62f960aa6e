"""What the kernels that work number by number share."""

# pyright: reportArgumentType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
"""Of inputs and outputs; inside everything is fp32."""

NO_POLICY = tl.constexpr("")


@triton.jit
def load(pointer, mask, POLICY: tl.constexpr = NO_POLICY):
    """In fp32; zero where masked."""
    return tl.load(pointer, mask=mask, other=0.0, eviction_policy=POLICY).to(tl.float32)


@triton.jit
def store(pointer, value, mask):
    """Rounded to what the pointer points to."""
    tl.store(pointer, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def sigmoid(x):
    """``1 / (1 + e^-x)`` in five instructions; a division alone takes as many."""
    root = tl.math.rsqrt(1 + tl.exp2(x * -1.4426950408889634))
    return root * root
