"""``silu(gate) * up``, both halves of one projection, read once and written once."""

# What a kernel holds is known to Triton's compiler only.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lmtrain_kernels.dots import parts
from lmtrain_kernels.operators import operator
from lmtrain_kernels.pointwise import DTYPES, load, sigmoid, store
from lmtrain_kernels.tuned import tuned


def swiglu(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` for ``gate_up [t, 2 h]``, gate first: ``[t, h]``, in fp32.

    Shazeer 2020 (arXiv 2002.05202). Only the input is kept for the backward pass.

    Raises:
        ValueError: another shape, dtype or stride than rows of bf16, fp16 or fp32 side by side.
    """
    if gate_up.ndim != 2 or gate_up.shape[1] % 2 or gate_up.dtype not in DTYPES:
        raise ValueError(
            "gate_up must be [t, 2 h] of bf16, fp16 or fp32, got "
            f"{gate_up.dtype} {list(gate_up.shape)}"
        )
    return _open(gate_up)


@torch.library.custom_op("lmtrain::swiglu", mutates_args=())
def _swiglu(gate_up: Tensor) -> Tensor:
    gate_up = gate_up.contiguous()
    out = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
    _launch(gate_up, None, out)
    return out


@_swiglu.register_fake
def _(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)


@torch.library.custom_op("lmtrain::swiglu_backward", mutates_args=())
def _swiglu_backward(d_out: Tensor, gate_up: Tensor) -> Tensor:
    gate_up, d_out = gate_up.contiguous(), d_out.contiguous()
    d_gate_up = torch.empty_like(gate_up)
    _launch(gate_up, d_out, d_gate_up)
    return d_gate_up


@_swiglu_backward.register_fake
def _(_: Tensor, gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(gate_up.shape)


def _save(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs)


def _differentiate(backward: Any, ctx: Any, d_out: Tensor) -> Tensor:
    (gate_up,) = ctx.saved_tensors
    return backward(d_out, gate_up)


_open = operator(_swiglu, _swiglu_backward, _save, _differentiate)


def _launch(gate_up: Tensor, d_out: Tensor | None, result: Tensor) -> None:
    """Into ``result``: the output, or the gradient of the input."""
    t, width = len(gate_up), gate_up.shape[1] // 2
    launch = tuned("swiglu", gate_up.device)
    grid = (parts(t, launch["ROWS"]) * parts(width, launch["BLOCK"]),)
    _kernel[grid](gate_up, d_out, result, t, WIDTH=width, **launch)


@triton.jit(do_not_specialize=["tokens"])
def _kernel(
    gate_up, d_out, result, tokens,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``ROWS`` tokens, ``BLOCK`` numbers of each half: ``Y = gate s up``, or both gradients."""
    BLOCKS: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    first = (tl.program_id(0) // BLOCKS).to(tl.int64) * ROWS
    row = tl.arange(0, ROWS)[:, None]
    column = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)[None]
    kept = (row < tokens - first) & (column < WIDTH)
    one, two = first * WIDTH + row * WIDTH + column, 2 * first * WIDTH + 2 * row * WIDTH + column
    gate, up = load(gate_up + two, kept), load(gate_up + two + WIDTH, kept)
    opened = sigmoid(gate)
    silu = gate * opened
    if d_out is None:
        store(result + one, silu * up, kept)
    else:
        d = load(d_out + one, kept)
        store(result + two, d * up * (opened + silu * (1 - opened)), kept)
        store(result + two + WIDTH, d * silu, kept)
