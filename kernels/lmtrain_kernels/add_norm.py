"""What enters a part of a block: the residual stream with the last part's output, and its norm.

One pass forward reads both and writes the sum and its norm; one backward joins the gradients of the
two, which would otherwise be a pass of its own.
"""

# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmtrain_kernels.gated_norm import Plan, check, rms_norm, strides
from lmtrain_kernels.gated_norm_kernels import backward, forward
from lmtrain_kernels.operators import wanted


def add_norm(x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x + added``, and ``rms_norm`` of it: what both give one after the other, bit by bit.

    Where operators are wanted it is both one after the other.

    Args:
        x: ``[t, d]`` bf16, fp16 or fp32; only neighbours in ``d`` must be neighbours in memory.
        added: as ``x``, of its own strides; None for nothing, and ``x`` is returned itself.
        weight: ``[d]`` of any floating dtype.
        eps: added to the mean square.

    Raises:
        ValueError: another shape or dtype, or rows wider than 16384.
    """
    if wanted():
        stream = x if added is None else x + added
        return stream, rms_norm(stream, weight, eps)
    if x.ndim != 2 or weight.shape != x.shape[1:]:
        raise ValueError(f"want x [t, d] and weight [d], got {list(x.shape)}, {list(weight.shape)}")
    if added is not None and (added.shape != x.shape or added.dtype != x.dtype):
        raise ValueError(
            f"x is {list(x.shape)} in {x.dtype} and what is added {list(added.shape)} in "
            f"{added.dtype}: make them alike"
        )
    check(x[:, None], None, weight, None if added is None else added[:, None], None)
    return _AddNorm.apply(x, added, weight.contiguous(), eps)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        rows, others = x[:, None], None if added is None else added[:, None]
        stream, out = x if added is None else x.new_empty(x.shape), x.new_empty(x.shape)
        inverse = x.new_empty(len(x), dtype=torch.float32)
        plan = Plan.of("gated_norm_forward", rows, None, weight, None)
        forward[(plan.programs,)](
            rows, None, weight, others, None, None if added is None else stream, out, inverse,
            len(x), eps, plan.run, *strides(rows), 0, 0, *strides(others), 1, False, True,
            **plan.constants,
        )  # fmt: skip
        ctx.save_for_backward(stream, weight, inverse)
        ctx.adds = added is not None
        return stream, out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_stream: Tensor, d_out: Tensor
    ) -> tuple[Tensor | None, ...]:
        stream, weight, inverse = ctx.saved_tensors
        rows, d_stream = stream[:, None], d_stream.contiguous()
        d_rows = (d_out if d_out.stride(1) == 1 else d_out.contiguous())[:, None]
        plan = Plan.of("gated_norm_backward", rows, None, weight, None)
        dx = stream.new_empty(stream.shape)
        sums = stream.new_empty(plan.programs, stream.shape[1], dtype=torch.float32)
        backward[(plan.programs,)](
            d_rows, rows, None, weight, None, None, inverse, d_stream, dx, None, None, sums, None,
            len(stream), plan.run, *strides(d_rows), *strides(rows), 0, 0, 0, 0, 1, False, True,
            **plan.constants,
        )  # fmt: skip
        return dx, dx if ctx.adds else None, sums.sum(0).to(weight.dtype), None
