"""The configuration of how operations are computed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lmtrain.ops.kernel import Width

if TYPE_CHECKING:
    from lmtrain.ops.kernel import Sizes


class Backend(StrEnum):
    """Whose recurrences, gates, short convolution, norms, SwiGLU and rotary positions run."""

    auto = "auto"
    reference = "reference"
    torch = "torch"
    triton = "triton"
    fla = "fla"
    flash_qla = "flash_qla"


class AttentionKind(StrEnum):
    """How documents meet torch's fused attention."""

    auto = "auto"
    sdpa = "sdpa"
    varlen = "varlen"


class FlashKind(StrEnum):
    """Whose FlashAttention torch calls."""

    torch = "torch"
    fa3 = "fa3"
    fa4 = "fa4"


CARRYING = (Backend.torch, Backend.triton)
"""Backends whose recurrences can take a state from another process."""
TRITON_WIDTHS = range(16, 257)
"""Of heads, in our kernels: a product of tiles needs 16."""
TRITON_TAPS = 8
TRITON_ROW = 16384
"""Widest row of a norm."""
TRITON_NORM = 8192
"""Widest row of a norm behind a gate and a skip, which is Mamba-2's."""
FLASH_QLA_WIDTH = 128
LEAST_CAPABILITY = {Backend.triton: 80, Backend.fla: 80, Backend.flash_qla: 90}
"""Compute capability of the card, times ten, from which on they run."""
_PACKAGES = {
    Backend.triton: ("triton", "pip install triton"),
    Backend.fla: ("fla", "pip install 'lmtrain[fla]'"),
    Backend.flash_qla: ("flash_qla", "pip install 'lmtrain[flash_qla]'"),
}
_GATED_DELTANET = "model.gated_deltanet", "key_dim", "value_dim"
_MAMBA2 = "model.mamba2", "state_dim", "head_dim"
_FLASH_PACKAGES = {
    FlashKind.fa3: ("flash_attn_interface", "install FlashAttention 3"),
    FlashKind.fa4: ("flash_attn.cute", "install FlashAttention 4"),
}


@dataclass(kw_only=True)
class OpsConfig:
    """Which implementation of an operation runs; none changes what a model is."""

    backend: Backend = Backend.auto
    """auto: triton on CUDA from compute capability 8.0 on, else torch; reference: token by token;
    fla, flash_qla: those packages, where they have the operation."""
    attention: AttentionKind = AttentionKind.auto
    """sdpa: a call for each distinct length of a document; varlen: one call for all documents of a
    row, on CUDA in 16 bits; auto: varlen for windows and for documents of several lengths where it
    runs, else sdpa."""
    flash: FlashKind = FlashKind.torch
    """fa3, fa4: let torch call an installed FlashAttention of that generation."""

    def check(self, capability: int | None) -> list[str]:
        """Every problem on this machine, each a sentence with key, value and remedy.

        Args:
            capability: compute capability of the card times ten; None without CUDA.
        """
        return [
            *backend_problems(self.backend, capability),
            *self._attention(capability),
            *self._flash(capability),
        ]

    def _attention(self, capability: int | None) -> list[str]:
        if self.attention is not AttentionKind.varlen or capability is not None:
            return []
        return ["ops.attention=varlen needs CUDA, and there is none: say ops.attention=sdpa"]

    def _flash(self, capability: int | None) -> list[str]:
        if self.flash is FlashKind.torch:
            return []
        if capability is None or capability < 90:
            return [
                f"ops.flash={self.flash} needs a card of compute capability 9.0 or more: "
                "say ops.flash=torch"
            ]
        package, remedy = _FLASH_PACKAGES[self.flash]
        return _missing(f"ops.flash={self.flash}", package, f"{remedy}, or say ops.flash=torch")


def resolve(asked: Backend, capability: int | None) -> Backend:
    """What ``auto`` comes to on a card of this capability times ten, None without CUDA."""
    if asked is not Backend.auto:
        return asked
    runs = capability is not None and not backend_problems(Backend.triton, capability)
    return Backend.triton if runs else Backend.torch


def backend_problems(backend: Backend, capability: int | None) -> list[str]:
    """Why a backend cannot run on such a card, each a sentence with key, value and remedy."""
    if backend not in _PACKAGES:
        return []
    package, remedy = _PACKAGES[backend]
    key = f"ops.backend={backend}"
    if missing := _missing(key, package, f"{remedy}, or say ops.backend=torch"):
        return missing
    least = LEAST_CAPABILITY[backend]
    if capability is None and not (backend is Backend.triton and interpreted()):
        return [f"{key} needs CUDA, and there is none: say ops.backend=torch"]
    if capability is not None and capability < least:
        return [
            f"{key} needs compute capability {least / 10}, this card has {capability / 10}: "
            "say ops.backend=torch"
        ]
    return []


def size_problems(backend: Backend, sizes: Sizes | Width) -> list[str]:
    """Why its kernels do not take a part, each a sentence with key, value and remedy."""
    if backend not in (Backend.triton, Backend.flash_qla):
        return []
    if isinstance(sizes, Width):
        return _row_problems(backend, sizes)
    delta = sizes.rule == "gated_delta"
    model, key, value = _GATED_DELTANET if delta else _MAMBA2
    widths = {f"{model}.{key}": sizes.key, f"{model}.{value}": sizes.value}
    found = [
        f"{name}={width} is not between 16 and 256, as ops.backend={backend} needs: change it, or "
        "say ops.backend=torch"
        for name, width in widths.items()
        if width not in TRITON_WIDTHS
    ]
    if delta and backend is Backend.flash_qla:
        found = [
            f"{name}={width} is not 128, which ops.backend=flash_qla needs: change it, or say "
            "ops.backend=triton"
            for name, width in widths.items()
            if width != FLASH_QLA_WIDTH
        ]
    if sizes.taps > TRITON_TAPS:
        found.append(
            f"{model}.conv_width={sizes.taps} is more than the {TRITON_TAPS} taps of "
            f"ops.backend={backend}: lower it, or say ops.backend=torch"
        )
    row = sizes.heads // sizes.groups * sizes.value
    if sizes.norm and not delta and row > TRITON_NORM:
        found.append(
            f"{model}.groups={sizes.groups} leaves a norm {row} numbers, and ops.backend={backend} "
            f"takes {TRITON_NORM}: raise it, or say ops.backend=torch"
        )
    return found


def _row_problems(backend: Backend, sizes: Width) -> list[str]:
    if sizes.operation != "rms_norm" or sizes.numbers <= TRITON_ROW:
        return []
    return [
        f"model.d_model or heads make norms of {sizes.numbers} numbers, and ops.backend={backend} "
        f"takes {TRITON_ROW}: lower them, or say ops.backend=torch"
    ]


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on any device."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _missing(key: str, package: str, remedy: str) -> list[str]:
    try:
        found = find_spec(package) is not None
    except ModuleNotFoundError:  # the package around it
        found = False
    return [] if found else [f"{key}, but {package} is not installed: {remedy}"]
