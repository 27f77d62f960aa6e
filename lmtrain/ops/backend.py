"""Which implementation of an operation runs: the one place that chooses.

A backend has the recurrences and their gates, the short convolution, norms, SwiGLU and rotary
positions; attention is torch's own. Parts of a model take theirs in ``use``, and never ask which it
is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from lmtrain.ops.activation import swiglu
from lmtrain.ops.attention import attend
from lmtrain.ops.config import (
    AttentionKind,
    Backend,
    FlashKind,
    OpsConfig,
    resolve,
    size_problems,
)
from lmtrain.ops.conv import short_conv
from lmtrain.ops.gated_delta import GatedDelta
from lmtrain.ops.gates import delta_gates, discretize
from lmtrain.ops.kernel import (
    AddNorm,
    Attend,
    Convolve,
    DeltaGates,
    Discretize,
    GateThenNorm,
    L2Norm,
    NormThenGate,
    RmsNorm,
    Rotate,
    Sizes,
    SwiGlu,
    Width,
)
from lmtrain.ops.norm import add_norm, gate_then_norm, l2_norm, norm_then_gate, rms_norm
from lmtrain.ops.recurrence import Recurrence
from lmtrain.ops.rotary import rotate
from lmtrain.ops.ssd import ScalarDecay

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Operations:
    """What a model computes with."""

    backend: Backend
    by: str
    """Who computes, with versions: a part of a sentence."""
    gated_delta: Recurrence[Any, Any, Any]
    ssd: Recurrence[Any, Any, Any]
    short_conv: Convolve
    delta_gates: DeltaGates
    discretize: Discretize
    l2_norm: L2Norm
    norm_then_gate: NormThenGate
    gate_then_norm: GateThenNorm
    rms_norm: RmsNorm
    add_norm: AddNorm
    swiglu: SwiGlu
    rotate: Rotate
    attend: Attend = attend


TORCH = Operations(
    *(Backend.torch, f"torch {torch.__version__}"),
    *(GatedDelta(), ScalarDecay(), short_conv, delta_gates, discretize),
    *(l2_norm, norm_then_gate, gate_then_norm),
    *(rms_norm, add_norm, swiglu, rotate),
)
"""On any device, in any dtype."""


@runtime_checkable
class Part(Protocol):
    """A module of a model that computes with operations it is given."""

    def use(self, operations: Operations) -> None:
        """Compute with these."""
        ...

    def sizes(self) -> Sizes | Width | None:
        """What it calls them with; None if they are torch's own."""
        ...


def bind(model: nn.Module, config: OpsConfig, device: torch.device, dtype: torch.dtype) -> None:
    """Let every part of a model compute as ``config`` asks; strategies come after.

    On CUDA each kernel first proves itself on a small case (``self_check``).

    Args:
        model: its parameters may be on the meta device.
        config: what is asked for.
        device: where the model will compute.
        dtype: of its activations.

    Raises:
        ValueError: what is asked for cannot run on this device, or not with these parts.
        RuntimeError: a kernel disagrees with the reference.
    """
    chosen = choose(config, device)
    parts = [module for module in model.modules() if isinstance(module, Part)]
    called = dict.fromkeys(sizes for part in parts if (sizes := part.sizes()) is not None)
    if problems := [p for sizes in called for p in size_problems(chosen.backend, sizes)]:
        raise ValueError(" ".join(problems))
    if device.type == "cuda" and chosen.backend not in (Backend.torch, Backend.reference):
        from lmtrain.ops.self_check import check_kernels

        for sizes in called:
            check_kernels(chosen, sizes, device, dtype)
    if config.flash is not FlashKind.torch:
        _activate(config.flash)
    for part in parts:
        part.use(chosen)


def describe(config: OpsConfig, device: torch.device) -> str:
    """A line for the log: who computes on this device."""
    chosen = choose(config, device)
    flash = "" if config.flash is FlashKind.torch else f" with {config.flash}"
    taken = AttentionKind.sdpa if chosen.attend is attend else config.attention
    attention = "sdpa or varlen" if taken is AttentionKind.auto else taken
    return (
        f"recurrences, convolutions and norms by {chosen.by} (ops.backend={config.backend}), "
        f"attention by torch's {attention}{flash}"
    )


def choose(config: OpsConfig, device: torch.device) -> Operations:
    """The operations that ``config`` asks for.

    Raises:
        ValueError: they cannot run on this device.
    """
    card = capability(device)
    if problems := config.check(card):
        raise ValueError(" ".join(problems))
    chosen = operations(resolve(config.backend, card))
    return replace(chosen, attend=_attention(config.attention, card))


def _attention(asked: AttentionKind, card: int | None) -> Attend:
    """FlashAttention, which takes all documents at once, needs compute capability 8.0."""
    if asked is AttentionKind.sdpa or (asked is AttentionKind.auto and (card or 0) < 80):
        return attend
    from lmtrain.ops.attention_varlen import attend_either, attend_varlen

    return attend_varlen if asked is AttentionKind.varlen else attend_either


def operations(backend: Backend) -> Operations:
    """Those of a backend other than auto; imports its packages."""
    match backend:
        case Backend.torch:
            return TORCH
        case Backend.reference:
            return _reference()
        case Backend.triton:
            return _triton()
        case Backend.fla:
            return _fla()
        case Backend.flash_qla:
            return _flash_qla()
        case Backend.auto:
            raise AssertionError("auto was not resolved")


def capability(device: torch.device) -> int | None:
    """Compute capability of a card times ten, None for what is no CUDA device."""
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@cache
def _reference() -> Operations:
    from lmtrain.ops import naive, reference

    return Operations(
        *(Backend.reference, "the reference, token by token"),
        *(naive.gated_delta, naive.ssd, reference.short_conv),
        *(reference.delta_gates, reference.discretize),
        *(reference.l2_norm, reference.norm_then_gate, reference.gate_then_norm),
        *(reference.rms_norm, reference.add_norm, reference.swiglu, reference.rotate),
    )


@cache
def _triton() -> Operations:
    from lmtrain.ops import triton_pointwise as pointwise
    from lmtrain.ops.triton_delta import TritonGatedDelta
    from lmtrain.ops.triton_ssd import TritonScalarDecay

    return Operations(
        *(Backend.triton, f"triton {version('triton')}"),
        *(TritonGatedDelta(), TritonScalarDecay(), pointwise.short_conv),
        *(pointwise.delta_gates, pointwise.discretize),
        *(pointwise.l2_norm, pointwise.norm_then_gate, pointwise.gate_then_norm),
        *(pointwise.rms_norm, pointwise.add_norm, pointwise.swiglu, pointwise.rotate),
    )


@cache
def _fla() -> Operations:
    from lmtrain.ops import peers

    return Operations(
        *(Backend.fla, f"fla {version('fla-core')}"),
        *(peers.fla_gated_delta, peers.fla_ssd, peers.fla_short_conv),
        *(peers.fla_delta_gates, discretize),
        *(peers.fla_l2_norm, peers.fla_norm_then_gate, peers.fla_gate_then_norm),
        *(peers.fla_rms_norm, peers.fla_add_norm, peers.fla_swiglu, peers.fla_rotate),
    )


@cache
def _flash_qla() -> Operations:
    from lmtrain.ops import peers

    ours, theirs = _triton(), f"flash_qla {version('flash-qla')}"
    by = f"{ours.by}, but the gated delta rule by {theirs}"
    rule = peers.flash_qla_gated_delta
    return replace(ours, backend=Backend.flash_qla, by=by, gated_delta=rule)


@cache
def _activate(flash: FlashKind) -> None:
    """For the whole process: torch has one FlashAttention."""
    from torch.nn.attention import activate_flash_attention_impl

    activate_flash_attention_impl(flash.upper())
