"""Short causal depthwise convolution with SiLU, documents kept apart.

One launch serves all channels, so ``q``, ``k`` and ``v`` are convolved together; each is a tensor
of its own afterwards.
"""

# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lmtrain_kernels.dots import parts
from lmtrain_kernels.operators import operator
from lmtrain_kernels.pointwise import DTYPES
from lmtrain_kernels.short_conv_kernels import backward, forward, step
from lmtrain_kernels.tuned import tuned

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_TAPS = 8
MOST_PARTS = 3


def short_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    position: Tensor | None = None,
    *,
    widths: Sequence[int] | None = None,
    silu: bool = True,
) -> tuple[Tensor, ...]:
    """``silu(conv(x) + bias)``: ``x [t, c], weight [taps, c], bias [c] or None``.

    The last tap meets the token itself. The tap at lag ``l`` of token ``i`` meets ``x[i - l]`` if
    ``position[i] >= l`` and ``i >= l``, else zero.

    Args:
        x: bf16, fp16 or fp32; rows may be strided (a slice of a projection), channels may not.
        weight: at most 8 taps, of any floating dtype; sums are in fp32.
        bias: added before the SiLU.
        position: int32 ``[t]``, the offset of each token in its document; None is one document.
        widths: the channels of up to three outputs, whose sum is ``c``; None for one of all.
        silu: False gives the convolution alone.

    Returns:
        ``[t, width]`` for each width, contiguous.

    Raises:
        ValueError: a shape, dtype or stride other than these.
    """
    _check(x, weight, bias)
    widths = x.shape[1:] if widths is None else widths
    if sum(widths) != x.shape[1] or not 1 <= len(widths) <= MOST_PARTS or min(widths) < 1:
        raise ValueError(
            f"widths must be up to {MOST_PARTS} whose sum is {x.shape[1]}, got {list(widths)}"
        )
    if position is not None and (position.shape != x.shape[:1] or position.dtype != torch.int32):
        raise ValueError(
            f"position must be int32 [{len(x)}], one number a token, "
            f"got {position.dtype} {list(position.shape)}"
        )
    bias, position = (None if y is None else y.contiguous() for y in (bias, position))
    all_widths = (*widths, 0, 0)[:MOST_PARTS]
    return _convolve(x, weight, bias, position, *all_widths, silu)[: len(widths)]


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
    grid = (parts(c, launch["BLOCK"]) * b,)
    step[grid](x, tail, weight, bias, y, after, x.stride(0), c, taps, silu, **launch)
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
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    position: Tensor | None,
    w0: int,
    w1: int,
    w2: int,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Three outputs, of which some may have no channels."""
    t, taps, widths = len(x), len(weight), (w0, w1, w2)
    outputs = x.new_empty(t, w0), x.new_empty(t, w1), x.new_empty(t, w2)
    launch = tuned("short_conv_forward", x.device, taps=taps)
    grid = (parts(t, launch["ROWS"]) * sum(parts(w, launch["BLOCK"]) for w in widths),)
    forward[grid](
        x, weight.contiguous(), bias, position, *outputs, t, x.stride(0), *widths, taps, silu,
        **launch,
    )  # fmt: skip
    return outputs


@_short_conv.register_fake
def _(
    x: Tensor, _: Tensor, __: Tensor | None, ___: Tensor | None, *widths: Any
) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape[0], width) for width in widths[:MOST_PARTS])


@torch.library.custom_op("lmtrain::short_conv_backward", mutates_args=())
def _short_conv_backward(
    d0: Tensor,
    d1: Tensor,
    d2: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    position: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    """``dx [t, c]``, and ``[taps + 1, c]`` fp32: the gradients of the taps and of a bias."""
    (t, c), taps = x.shape, len(weight)
    d_outs = [d if d.stride(1) == 1 else d.contiguous() for d in (d0, d1, d2)]
    widths = [d.shape[1] for d in d_outs]
    strides = [d.stride(0) * (w > 0) for d, w in zip(d_outs, widths, strict=True)]
    launch = tuned("short_conv_backward", x.device, taps=taps)
    programs = parts(t, launch["WALKS"] * launch["ROWS"])
    dx = x.new_empty(t, c)
    partial = x.new_empty(programs, taps + 1, c, dtype=torch.float32)
    grid = (programs * sum(parts(w, launch["BLOCK"]) for w in widths),)
    backward[grid](
        *d_outs, x, weight.contiguous(), bias, position, dx, partial, t,
        x.stride(0), *strides, *widths, taps, silu, **launch,
    )  # fmt: skip
    return dx, partial.sum(0)


@_short_conv_backward.register_fake
def _(
    _: Tensor, __: Tensor, ___: Tensor, x: Tensor, weight: Tensor, *____: object
) -> tuple[Tensor, Tensor]:
    sums = x.new_empty(len(weight) + 1, x.shape[1], dtype=torch.float32)
    return x.new_empty(x.shape), sums


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG001
    x, weight, bias, position, *_, ctx.silu = inputs
    ctx.save_for_backward(x, weight, bias, position)


def _differentiate(backward: Any, ctx: Any, *d_outs: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, position = ctx.saved_tensors
    dx, sums = backward(*d_outs, x, weight, bias, position, ctx.silu)
    d_bias = None if bias is None else sums[-1].to(bias.dtype)
    return dx, sums[:-1].to(weight.dtype), d_bias, *[None] * (2 + MOST_PARTS)


_convolve = operator(_short_conv, _short_conv_backward, _save, _differentiate)
