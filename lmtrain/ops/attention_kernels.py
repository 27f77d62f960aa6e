"""Attention of one tile that tells its normaliser, and the gradient given the final one.

These are torch's own fused kernels, called by name, because ``scaled_dot_product_attention`` keeps
the logarithm of the sum of exponentials (``lse``) to itself. Where queries meet their keys in
several tiles, each tile's gradient follows from the output and ``lse`` over all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

_aten = torch.ops.aten


class Kernel(Protocol):
    """Unmasked or causal attention on ``[n, h, length, d]``, ``lse [n, h, length]``."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """The output and its ``lse``."""
        ...

    def backward(
        self,
        grad: Tensor,
        qkv: tuple[Tensor, Tensor, Tensor],
        out: Tensor,
        lse: Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of ``q, k, v``."""
        ...


def attend_tile(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    """``q [n, t, h, d], k, v [n, s, g, d] -> out [n, t, h, d], lse [n, t, h]``.

    A causal tile has ``t = s``. ``lse`` is at least fp32.

    Raises:
        ValueError: no fused kernel takes this dtype on this device.
    """
    kernel, scale = _kernel(q), q.shape[-1] ** -0.5
    out, lse = kernel.forward(*_ready(q, k, v), causal=causal, scale=scale)
    return out.transpose(1, 2)[..., : q.shape[-1]], lse.transpose(1, 2)


def tile_gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``q, k, v`` in at least fp32, as the pairs of one tile contribute to them.

    ``grad`` and ``out``, in the dtype of ``q``, and ``lse`` belong to all keys of the queries.
    """
    kernel, scale = _kernel(q), q.shape[-1] ** -0.5
    heads, shared, width = q.shape[2], k.shape[2], q.shape[-1]
    q, k, v = _ready(q, k, v)
    grad, out = (_widened(x.transpose(1, 2)) for x in (grad, out))
    parts = kernel.backward(grad, (q, k, v), out, lse.transpose(1, 2), causal=causal, scale=scale)
    dq, dk, dv = (x.transpose(1, 2)[..., :width].to(lse.dtype) for x in parts)
    if heads != shared:
        dk, dv = (x.unflatten(2, (shared, -1)).sum(3) for x in (dk, dv))
    return dq, dk, dv


def _ready(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Heads before tokens, as many key heads as query heads."""
    each = q.shape[2] // k.shape[2]
    if each > 1:
        k, v = (x.repeat_interleave(each, 2) for x in (k, v))
    q, k, v = (_widened(x.transpose(1, 2)) for x in (q, k, v))
    return q, k, v


def _widened(x: Tensor) -> Tensor:
    """CUDA kernels want heads in multiples of 8; zeros change nothing."""
    return F.pad(x, (0, -x.shape[-1] % 8)) if x.is_cuda and x.shape[-1] % 8 else x


def flash_takes(q: Tensor) -> bool:
    """Whether FlashAttention has a kernel for heads like these: 16 bits, at most 256 wide."""
    return q.dtype in (torch.bfloat16, torch.float16) and q.shape[-1] <= 256


def _kernel(q: Tensor) -> Kernel:
    if q.device.type == "cpu":
        return _Host()
    if q.is_cuda and flash_takes(q):
        return _Flash()
    if q.is_cuda and q.dtype != torch.float64:
        return _Efficient()
    raise ValueError(
        f"attention in tiles has no kernel for {q.dtype} on {q.device.type}: "
        "use bf16, fp16 or fp32 on CUDA, or the CPU"
    )


class _Host:
    """Any floating dtype on the CPU."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        return _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)

    def backward(
        self,
        grad: Tensor,
        qkv: tuple[Tensor, Tensor, Tensor],
        out: Tensor,
        lse: Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, *qkv, out, lse, 0.0, causal, scale=scale
        )


class _Flash:
    """FlashAttention: bf16 and fp16 on CUDA."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        out, lse, *_ = _aten._scaled_dot_product_flash_attention(
            q, k, v, 0.0, causal, False, scale=scale
        )
        return out, lse[..., : q.shape[2]]

    def backward(
        self,
        grad: Tensor,
        qkv: tuple[Tensor, Tensor, Tensor],
        out: Tensor,
        lse: Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = qkv
        seed = torch.zeros(2, dtype=torch.uint64, device=q.device)  # of dropout: there is none
        unused = torch.zeros((), dtype=torch.uint64, device=q.device)
        return _aten._scaled_dot_product_flash_attention_backward(
            *(grad, q, k, v, out, lse.contiguous(), None, None, q.shape[2], k.shape[2]),
            *(0.0, causal, seed, unused),
            scale=scale,
        )


class _Efficient:
    """Memory-efficient attention: fp32 on CUDA."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        out, lse, *_ = _aten._scaled_dot_product_efficient_attention(
            q, k, v, None, True, 0.0, causal, scale=scale
        )
        return out, lse[..., : q.shape[2]]

    def backward(
        self,
        grad: Tensor,
        qkv: tuple[Tensor, Tensor, Tensor],
        out: Tensor,
        lse: Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        lse = F.pad(lse, (0, -lse.shape[-1] % 32), value=torch.inf)  # the kernel reads in 32s
        seed = torch.zeros((), dtype=torch.int64, device=lse.device)  # of dropout: there is none
        dq, dk, dv, _ = _aten._scaled_dot_product_efficient_attention_backward(
            *(grad, *qkv, None, out, lse.contiguous(), seed, seed, 0.0),
            *([True, True, True, False], causal),
            scale=scale,
        )
        return dq, dk, dv
