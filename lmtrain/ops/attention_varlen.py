"""Softmax attention over all documents of a row in one call: FlashAttention with offsets.

For CUDA and 16 bits. Rows of many distinct lengths are one launch here, and one a length in
``ops.attention``.
"""

from __future__ import annotations

from functools import cache
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention.varlen import varlen_attn

from lmtrain.ops.attention import attend
from lmtrain.ops.attention_kernels import flash_takes

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.layout import SequenceLayout


def attend_either(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    layout: SequenceLayout,
    keys: SequenceLayout | None = None,
    window: int | None = None,
) -> Tensor:
    """As ``ops.attention.attend``, in one call where that would take many or compute a mask."""
    pays = window is not None or not layout.uniform
    kernel = attend_varlen if pays and _fits(q) else attend
    return kernel(q, k, v, layout=layout, keys=keys, window=window)


def attend_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    layout: SequenceLayout,
    keys: SequenceLayout | None = None,
    window: int | None = None,
) -> Tensor:
    """As ``ops.attention.attend``; keys before the span are left to that.

    Raises:
        ValueError: the dtype has no FlashAttention, or heads are wider than 256.
    """
    if keys is not None and keys.start != layout.start:
        return attend(q, k, v, layout=layout, keys=keys, window=window)
    if not _fits(q):
        raise ValueError(
            f"ops.attention=varlen takes heads of multiples of 8 up to 256 in 16 bits, not of "
            f"{q.shape[-1]} in {q.dtype}: say ops.attention=sdpa, or engine.precision=bf16"
        )
    each = q.shape[1] // k.shape[1]
    grouped: dict[str, Any] = {"enable_gqa": True} if each > 1 and _knows_groups() else {}
    if each > 1 and not grouped:
        k, v = (x.repeat_interleave(each, 1) for x in (k, v))
    longest = max(layout.lengths)
    reach = (-1 if window is None else window - 1, 0)
    offsets = layout.offsets
    out = varlen_attn(q, k, v, offsets, offsets, longest, longest, window_size=reach, **grouped)
    assert isinstance(out, torch.Tensor)
    return out


def _fits(q: Tensor) -> bool:
    return flash_takes(q) and q.shape[-1] % 8 == 0


@cache
def _knows_groups() -> bool:
    """Whether this torch takes fewer key heads than query heads (2.12 does)."""
    return "enable_gqa" in signature(varlen_attn).parameters
