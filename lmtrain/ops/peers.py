"""Operations of flash-linear-attention (fla) and FlashQLA, on CUDA: only the calls are ours.

They are there to be measured against, and to be used where they win. Both take a batch of one row,
documents through cumulative lengths.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lmtrain.ops.config import Backend
from lmtrain.ops.gated_delta import GatedDelta
from lmtrain.ops.norm import add_skip
from lmtrain.ops.ssd import ScalarDecay
from lmtrain.ops.uncarried import Uncarried

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from lmtrain.layout import SequenceLayout
    from lmtrain.ops.kernel import Skip

_HALF = (torch.bfloat16, torch.float16)


def _fla_gated_delta(
    inputs: tuple[Tensor, ...], layout: SequenceLayout, initial: Tensor | None
) -> tuple[Tensor, Tensor]:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    return _scan(chunk_gated_delta_rule, inputs, layout, initial)


def _fla_ssd(
    inputs: tuple[Tensor, ...], layout: SequenceLayout, initial: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As simple GLA, which wants keys for every head."""
    from fla.ops.simple_gla import chunk_simple_gla

    q, k, v, decay = inputs
    q, k = (x.repeat_interleave(v.shape[1] // x.shape[1], 1) for x in (q, k))
    return _scan(chunk_simple_gla, (q, k, v, decay), layout, initial)


def _flash_qla_gated_delta(
    inputs: tuple[Tensor, ...], layout: SequenceLayout, initial: Tensor | None
) -> tuple[Tensor, Tensor]:
    from flash_qla import chunk_gated_delta_rule

    _, k, v, *_ = inputs
    if k.shape[2] != 128 or v.shape[2] != 128 or v.dtype not in _HALF:
        raise ValueError(
            f"ops.backend=flash_qla takes heads of 128 in bf16 or fp16, not keys of {k.shape[2]} "
            f"and values of {v.shape[2]} in {v.dtype}: say ops.backend=triton"
        )
    return _scan(chunk_gated_delta_rule, inputs, layout, initial)


def _scan(
    run: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    layout: SequenceLayout,
    initial: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``initial`` enters the first document, and the state after the last one comes back."""
    q, k, v, *gates = inputs
    rows = [x.to(v.dtype)[None] for x in (q, k, v)] + [x.float()[None] for x in gates]
    if initial is not None:
        first = initial.float()[None]
        others = first.new_zeros(len(layout.lengths) - 1, *initial.shape)
        initial = torch.cat([first, others])
    out, final = run(
        *rows,
        scale=1.0,
        initial_state=initial,
        output_final_state=True,
        cu_seqlens=layout.derive(_offsets),
    )
    return out[0], final[-1]


def _offsets(layout: SequenceLayout) -> Tensor:
    """As 64-bit integers."""
    return layout.offsets.long()


def fla_short_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    widths: Sequence[int],
    *,
    layout: SequenceLayout,
) -> tuple[Tensor, ...]:
    """As ``ops.conv.short_conv``."""
    from fla.modules.convolution import causal_conv1d

    weight, bias = weight.T.to(x.dtype), None if bias is None else bias.to(x.dtype)
    offsets = layout.derive(_offsets)
    y, _ = causal_conv1d(x[None], weight, bias, activation="silu", cu_seqlens=offsets)
    return y[0].split(list(widths), -1)


def fla_delta_gates(
    dt: Tensor, beta: Tensor, bias: Tensor, A_log: Tensor, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """As ``ops.gates.delta_gates``; betas are torch's."""
    from fla.ops.gated_delta_rule.gate import fused_gdn_gate

    return fused_gdn_gate(dt, A_log, bias), scale * beta.float().sigmoid()


def fla_l2_norm(x: Tensor, scale: float = 1.0) -> Tensor:
    """As ``ops.norm.l2_norm``, in the dtype of ``x``."""
    from fla.modules.l2norm import l2norm

    y = l2norm(x.contiguous(), 1e-6)
    return y if scale == 1.0 else y * scale


def fla_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As ``ops.norm.rms_norm``."""
    from fla.modules.layernorm import rms_norm

    return rms_norm(x, weight, None, eps=eps)


def fla_add_norm(
    x: Tensor, added: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """As ``ops.norm.add_norm``."""
    from fla.modules.layernorm import rms_norm

    normed, stream = rms_norm(x, weight, None, residual=added, eps=eps, prenorm=True)
    return stream, normed


def fla_swiglu(gate_up: Tensor) -> Tensor:
    """As ``ops.activation.swiglu``."""
    from fla.modules.activations import swiglu

    return swiglu(*gate_up.chunk(2, -1))


def fla_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As ``ops.rotary.rotate``, by tables in the dtype of ``x``; tokens are one row to them."""
    from fla.modules.rotary import rotary_embedding

    cos, sin = (table[:, 0].to(x.dtype) for table in (cos, sin))
    return rotary_embedding(x[None], cos, sin)[0]


def fla_norm_then_gate(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As ``ops.norm.norm_then_gate``."""
    from fla.modules.fused_norm_gate import rms_norm_gated

    return rms_norm_gated(x, gate, weight, None, activation="swish", eps=eps)


def fla_gate_then_norm(
    x: Tensor, gate: Tensor, weight: Tensor, eps: float, skip: Skip | None = None
) -> Tensor:
    """As ``ops.norm.gate_then_norm``; the skip is torch's."""
    from fla.modules.layernorm_gated import rmsnorm_fn

    x = x if skip is None else add_skip(x, skip)
    y = rmsnorm_fn(
        x.flatten(1),
        weight,
        None,
        z=gate.flatten(1),
        eps=eps,
        group_size=x.shape[-1],
        norm_before_gate=False,
    )
    return y.view_as(x)


fla_gated_delta = Uncarried(Backend.fla, GatedDelta(), _fla_gated_delta)
fla_ssd = Uncarried(Backend.fla, ScalarDecay(), _fla_ssd)
flash_qla_gated_delta = Uncarried(Backend.flash_qla, GatedDelta(), _flash_qla_gated_delta)
