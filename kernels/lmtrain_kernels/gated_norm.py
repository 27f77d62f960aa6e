"""RMSNorm, alone or with a SiLU gate in either order, read once and written once.

A program walks a run of rows, so that weights, and sums for their gradients, stay in registers.
"""

# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmtrain_kernels.dots import padded, parts
from lmtrain_kernels.gated_norm_kernels import backward, forward
from lmtrain_kernels.operators import operator
from lmtrain_kernels.pointwise import DTYPES
from lmtrain_kernels.tuned import multiprocessors, tuned

MOST_WIDTH = 16384
MOST_WIDTH_WITH_SKIP = 8192
MULTIPROCESSORS_ELSEWHERE = 4
"""Of what is no card: enough for tests to see several programs, and several tiles of one."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x²) + eps) * weight`` over the last dimension, in fp32.

    Args:
        x: ``[t, d]`` or ``[t, h, d]`` bf16, fp16 or fp32; only neighbours in ``d`` must be
            neighbours in memory.
        weight: ``[d]`` of any floating dtype.
        eps: added to the mean square.

    Raises:
        ValueError: another shape or dtype, or rows wider than 16384.
    """
    heads = x[:, None] if x.ndim == 2 else x
    check(heads, None, weight, None, None)
    return _normalize(heads, None, weight.contiguous(), None, None, eps, True)[0].view(x.shape)


def gated_norm(
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    eps: float,
    *,
    norm_before_gate: bool,
    skip: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """``rms_norm(x) * weight * silu(gate)``, or ``rms_norm(x * silu(gate)) * weight``.

    ``rms_norm(y) = y / sqrt(mean(y²) + eps)`` over the last dimension, in fp32. The first order is
    that of Gated DeltaNet (Yang et al. 2025, arXiv 2412.06464), the second that of Mamba-2 (Dao and
    Gu 2024, arXiv 2405.21060).

    Args:
        x: ``[t, h, d]`` bf16, fp16 or fp32; only neighbours in ``d`` must be neighbours in memory.
        gate: as ``x``, of its own dtype and strides.
        weight: ``[d]`` for all heads, or ``[h * d]``; of any floating dtype.
        eps: added to the mean square.
        norm_before_gate: the first order.
        skip: ``u`` like ``x`` and ``scale [n]`` for ``n`` equal parts of ``h * d``: ``x`` is then
            ``x + scale * u``, the skip of Mamba-2.

    Raises:
        ValueError: another shape or dtype, or rows wider than 16384 (8192 with a skip).
    """
    u, scale = skip or (None, None)
    check(x, gate, weight, u, scale)
    weight, scale = weight.contiguous(), None if scale is None else scale.contiguous()
    return _normalize(x, gate, weight, u, scale, eps, norm_before_gate)[0]


def check(
    x: Tensor, gate: Tensor | None, weight: Tensor, u: Tensor | None, scale: Tensor | None
) -> None:
    """Refuse, as ``gated_norm``, what the kernels do not take."""
    if x.ndim != 3 or not 1 <= x.shape[2] <= MOST_WIDTH:
        raise ValueError(f"x must be [t, h, d] with d <= {MOST_WIDTH}, got {list(x.shape)}")
    for name, y in (("x", x), ("gate", gate), ("skip", u)):
        if y is not None and (y.shape != x.shape or y.dtype not in DTYPES or y.stride(2) != 1):
            raise ValueError(
                f"{name} must be {list(x.shape)} of bf16, fp16 or fp32, contiguous in its last "
                f"dimension, got {y.dtype} {list(y.shape)} of strides {y.stride()}"
            )
    _, h, d = x.shape
    if weight.shape not in ((d,), (h * d,)):
        raise ValueError(f"weight must be [{d}] or [{h * d}], got {list(weight.shape)}")
    if scale is not None and d > MOST_WIDTH_WITH_SKIP:
        raise ValueError(
            f"rows with a skip may be at most {MOST_WIDTH_WITH_SKIP} wide, got {d}: "
            "add the skip to x instead"
        )
    if scale is not None and (scale.ndim != 1 or (h * d) % len(scale)):
        raise ValueError(f"the scale of skip must have a divisor of {h * d} numbers")


class Plan(NamedTuple):
    """How the rows of ``[t, h, d]`` are divided among programs.

    Where all heads share a weight their rows are alike, and a program takes whichever come next;
    else a program keeps to one head.
    """

    programs: int
    """Programs of a head, or of all."""
    lanes: int
    """Heads that have programs of their own, or 1."""
    run: int
    """Tiles of a program."""
    constants: dict[str, Any]

    @classmethod
    def of(
        cls, kernel: str, x: Tensor, gate: Tensor | None, weight: Tensor, u: Tensor | None
    ) -> Plan:
        """Of ``x [t, h, d]``, by the row of ``tuned.json`` for its width."""
        t, h, d = x.shape
        alike = weight.numel() == d and u is None
        width = padded(d)
        key = {"width": width, "skip": int(u is not None), "gated": int(gate is not None)}
        launch = tuned(kernel, x.device, **key)
        wanted = launch.pop("PROGRAMS") * multiprocessors(x.device, MULTIPROCESSORS_ELSEWHERE)
        launch["BLOCK"] = min(width, launch.get("BLOCK", width))
        height = max(1, launch.pop("NUMBERS") // width)
        lanes = 1 if alike else h
        tiles = parts(t * h // lanes, height)
        run = max(1, parts(tiles * lanes, wanted))
        constants = {"HEADS": h, "ALIKE": alike, "WIDTH": d, "ROWS": height}
        return cls(parts(tiles, run), lanes, run, constants | launch)


@torch.library.custom_op("lmtrain::gated_norm", mutates_args=())
def _gated_norm(
    x: Tensor,
    gate: Tensor | None,
    weight: Tensor,
    u: Tensor | None,
    scale: Tensor | None,
    eps: float,
    norm_before_gate: bool,
) -> tuple[Tensor, Tensor]:
    """The result, and ``[t, h]`` fp32: what each row was multiplied by to norm it."""
    t, h, d = x.shape
    out, inverse = x.new_empty(t, h, d), x.new_empty(t, h, dtype=torch.float32)
    plan = Plan.of("gated_norm_forward", x, gate, weight, u)
    forward[(plan.programs * plan.lanes,)](
        x, gate, weight, u, scale, None, out, inverse, t, eps, plan.run, *strides(x),
        *strides(gate), *strides(u), _part(x, scale), weight.numel() > d, norm_before_gate,
        **plan.constants,
    )  # fmt: skip
    return out, inverse


@_gated_norm.register_fake
def _(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:2], dtype=torch.float32)


@torch.library.custom_op("lmtrain::gated_norm_backward", mutates_args=())
def _gated_norm_backward(
    d_out: Tensor,
    x: Tensor,
    gate: Tensor | None,
    weight: Tensor,
    u: Tensor | None,
    scale: Tensor | None,
    inverse: Tensor,
    norm_before_gate: bool,
) -> list[Tensor]:
    """``dx``, ``d_gate`` if gated, fp32 ``d_weight``; with a skip ``du`` and fp32 ``d_scale``."""
    t, _, d = x.shape
    d_out = d_out if d_out.stride(2) == 1 else d_out.contiguous()
    plan = Plan.of("gated_norm_backward", x, gate, weight, u)
    sums = x.new_empty(plan.programs, plan.lanes * d, dtype=torch.float32)
    dx, d_gate, du = (None if y is None else y.new_empty(x.shape) for y in (x, gate, u))
    scale_sums = None if u is None else torch.empty_like(sums)
    backward[(plan.programs * plan.lanes,)](
        d_out, x, gate, weight, u, scale, inverse, None, dx, d_gate, du, sums, scale_sums,
        t, plan.run, *strides(d_out), *strides(x), *strides(gate), *strides(u),
        _part(x, scale), weight.numel() > d, norm_before_gate, **plan.constants,
    )  # fmt: skip
    d_weight, d_scale = sums.view(-1, weight.numel()).sum(0), None
    if scale is not None and scale_sums is not None:
        d_scale = scale_sums.sum(0).view(len(scale), -1).sum(1)
    return [y for y in (dx, d_gate, d_weight, du, d_scale) if y is not None]


@_gated_norm_backward.register_fake
def _(
    _d_out: Tensor,
    x: Tensor,
    gate: Tensor | None,
    weight: Tensor,
    u: Tensor | None,
    scale: Tensor | None,
    *_: object,
) -> list[Tensor]:
    exact = (weight, scale)
    return [
        y.new_empty(y.shape, dtype=torch.float32 if any(y is z for z in exact) else None)
        for y in (x, gate, weight, u, scale)
        if y is not None
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, _, ctx.norm_before_gate = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, output[1])


def _differentiate(backward: Any, ctx: Any, d_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, inverse = ctx.saved_tensors
    grads = iter(backward(d_out, *tensors, inverse, ctx.norm_before_gate))
    found = [None if like is None else next(grads).to(like.dtype) for like in tensors]
    return *found, None, None


_normalize = operator(_gated_norm, _gated_norm_backward, _save, _differentiate)


def strides(x: Tensor | None) -> tuple[int, int]:
    """Between tokens and between heads of ``[t, h, d]``."""
    return (0, 0) if x is None else (x.stride(0), x.stride(1))


def _part(x: Tensor, scale: Tensor | None) -> int:
    """Numbers of ``h * d`` that share a scale."""
    return 1 if scale is None else x.shape[1] * x.shape[2] // len(scale)
