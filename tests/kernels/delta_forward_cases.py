"""What is compiled ahead of time of the forward pass of the gated delta rule."""

from __future__ import annotations

import torch
from torch import Tensor

from lmtrain_kernels.delta_forward import forward
from lmtrain_kernels.delta_outputs import outputs
from lmtrain_kernels.delta_prepare import Prepared, prepare, recompute
from lmtrain_kernels.delta_states import (
    enter_segments,
    pass_states,
    span_state,
    summarize_segments,
)
from lmtrain_kernels.table import ChunkTable

TOKENS, GROUPS, HEADS = 700, 2, 4
WHOLE, CUT = (ChunkTable.build([600, 100], 64, segment=n) for n in (None, 8))


def bf16() -> None:
    """Every row of ``tuned.json``."""
    _usual(torch.bfloat16)
    _wide(torch.bfloat16)
    k, v, total = _key(64, torch.bfloat16), _value(256, torch.bfloat16), _number()
    prepare(k, v, total, total, WHOLE)
    outputs(k, k, total, v.new_zeros(11, HEADS, 64, 256), v, WHOLE)


def outputs_in_one_walk() -> None:
    """Narrow and usual heads, in bf16: wider and exact ones go phase by phase."""
    for width in (64, 128):
        k, v, total = _key(width, torch.bfloat16), _value(width, torch.bfloat16), _number()
        forward(k, k, v, total, total, WHOLE)


def fp32() -> None:
    """Every row of ``tuned.json``."""
    _usual(torch.float32)
    _wide(torch.float32)


def _usual(dtype: torch.dtype) -> None:
    """All kernels at the usual size of heads, the states also at half of it."""
    k, v, total = _key(128, dtype), _value(128, dtype), _number()
    prepared = _prepared(128, 128, dtype)
    prepare(k, v, total, total, WHOLE)
    recompute(k, v, total, total, prepared.inverse, WHOLE)
    summary = summarize_segments(k, prepared, CUT)
    span_state(k, prepared, CUT, summary, alive=True)
    entering = enter_segments(summary, CUT, None)
    states = pass_states(k, prepared, CUT, entering).states
    outputs(k, k, total, states, v, WHOLE)
    _pass_states(64, 64, dtype)


def _wide(dtype: torch.dtype) -> None:
    """The states of wide keys."""
    _pass_states(256, 64, dtype)


def _pass_states(key: int, value: int, dtype: torch.dtype) -> None:
    entering = torch.zeros(1, HEADS, key, value)
    pass_states(_key(key, dtype), _prepared(key, value, dtype), WHOLE, entering)


def _key(width: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(TOKENS, GROUPS, width, dtype=dtype)


def _value(width: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(TOKENS, HEADS, width, dtype=dtype)


def _number() -> Tensor:
    return torch.zeros(TOKENS, HEADS)


def _prepared(key: int, value: int, dtype: torch.dtype) -> Prepared:
    return Prepared(_number(), _value(64, dtype), _value(key, dtype), _value(value, dtype))
