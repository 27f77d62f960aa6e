"""Inputs that are hard for the scalar-decay recurrence, and launches to compile ahead of time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from cards import DEVICE
from torch import Tensor

from lmtrain.layout import SequenceLayout
from lmtrain.ops import reference
from lmtrain_kernels.ssd_backward import backward
from lmtrain_kernels.ssd_forward import forward
from lmtrain_kernels.ssd_segments import enter_segments, span_state, summarize_segments
from lmtrain_kernels.table import ChunkTable


class Case(NamedTuple):
    """Shapes, and how decays are drawn."""

    lengths: tuple[int, ...]
    heads: int = 2
    groups: int = 1
    key: int = 32
    value: int = 32
    decay: str = "any"
    """``any`` (1e-5 to 30 a token) | ``weak`` (1e-5) | ``strong`` (10 to 30) | ``none`` (0)."""
    continues: bool = False
    """The first document began before: a state enters it."""
    segment: int | None = None
    """The most chunks of a segment."""
    size: int = 64
    """Tokens of a chunk."""


CASES = {
    "one document of odd length": Case((150,)),
    "several documents": Case((1, 63, 70, 2, 64, 1), continues=True),
    "a key head for each value head": Case((90, 40), groups=2, continues=True),
    "grouped key heads": Case((70,), heads=4, groups=2),
    "many heads of one group": Case((40, 10), heads=8, key=16, value=16, continues=True),
    "strong decay": Case((100, 30), decay="strong", continues=True),
    "weak decay": Case((150,), decay="weak", continues=True),
    "no decay": Case((130,), decay="none", continues=True),
    "segments": Case((90, 30, 50), segment=2, size=16, decay="weak", key=16, continues=True),
    "a long document among short ones": Case(
        (5, 30, 50, 3, 20), segment=2, size=16, key=16, value=16, decay="weak", continues=True
    ),
    "segments from nothing": Case((65, 140), segment=1, key=16, value=16),
    "one token": Case((1,), heads=8, key=16, value=16, continues=True),
    "chunks of 128": Case((200, 30), size=128, continues=True),
    "chunks of 16": Case((50, 7), size=16, segment=2, continues=True),
    "odd head sizes": Case((70, 9), key=48, value=96, continues=True),
    "wide keys": Case((67,), heads=1, key=256, continues=True),
    "wide values": Case((66,), heads=1, key=16, value=256, continues=True),
    "usual head sizes": Case((65,), heads=2, key=128, value=64, continues=True),
}


class Inputs(NamedTuple):
    """``q, k [t, g, kd], v [t, h, vd], decay [t, h]``, ``initial [h, kd, vd]`` or None."""

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor
    initial: Tensor | None


def draw(case: Case, dtype: torch.dtype = torch.float32) -> Inputs:
    """Fresh inputs on ``DEVICE``; ``q, k, v`` in ``dtype``, the rest in fp32."""
    t, h, g = sum(case.lengths), case.heads, case.groups
    q, k = (torch.randn(t, g, case.key) * case.key**-0.5 for _ in range(2))
    v = torch.randn(t, h, case.value)
    initial = torch.randn(h, case.key, case.value).to(DEVICE) if case.continues else None
    q, k, v = (x.to(DEVICE, dtype) for x in (q, k, v))
    return Inputs(q, k, v, _decay(case.decay, t, h).to(DEVICE), initial)


def table(case: Case) -> ChunkTable:
    """The chunks of a case, on ``DEVICE``."""
    return ChunkTable.build(case.lengths, case.size, segment=case.segment, device=DEVICE)


def naive(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Outputs and final state, token by token; differentiable."""
    before = 3 if case.continues else 0
    row = SequenceLayout.of_lengths((case.lengths[0] + before, *case.lengths[1:]))
    layout = SequenceLayout(row.bounds, before, row.bounds[-1])
    *tokens, initial = inputs
    return reference.ssd(*tokens, layout=layout, initial=initial)


def exact(inputs: Inputs) -> Inputs:
    """On the host, in fp64."""
    q, k, v, decay = (x.detach().double().cpu() for x in inputs[:4])
    initial = inputs.initial
    return Inputs(q, k, v, decay, None if initial is None else initial.detach().double().cpu())


def last_document(case: Case, inputs: Inputs) -> tuple[Case, Inputs]:
    """The last document by itself, entered by nothing."""
    length = case.lengths[-1]
    alone = case._replace(lengths=(length,), continues=False)
    q, k, v, decay = (x[-length:] for x in inputs[:4])
    return alone, Inputs(q, k, v, decay, None)


def first_document(case: Case, inputs: Inputs) -> tuple[Case, Inputs]:
    """The first document by itself, with what enters it."""
    length = case.lengths[0]
    q, k, v, decay = (x[:length] for x in inputs[:4])
    return case._replace(lengths=(length,)), Inputs(q, k, v, decay, inputs.initial)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """``||a - b|| / ||b||``; 0 / 0 is 0."""
    a, b = actual.detach().double().cpu(), expected.detach().double().cpu()
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def _decay(kind: str, t: int, h: int) -> Tensor:
    if kind == "strong":
        return -10 - 20 * torch.rand(t, h)
    if kind == "any":
        return -(10 ** (-5 + 6.5 * torch.rand(t, h)))
    return torch.full((t, h), {"weak": -1e-5, "none": 0.0}[kind])


def of_bf16() -> None:
    """Launches of Mamba-2 and of two wider shapes."""
    for key, value in ((128, 64), (64, 64), (128, 128), (256, 64)):
        launch(key, value, torch.bfloat16)


def of_fp32() -> None:
    """The same in fp32, which is for checks."""
    for key, value in ((128, 64), (64, 64)):
        launch(key, value, torch.float32)


def launch(key: int, value: int, dtype: torch.dtype) -> None:
    """Every kernel once; a document of two segments, 8 heads that share keys."""
    q, v, decay = torch.zeros(256, 1, key), torch.zeros(256, 8, value), torch.zeros(256, 8)
    q, v = q.to(dtype), v.to(dtype)
    chunks = ChunkTable.build((256,), 64, segment=2)
    initial = torch.zeros(8, key, value)
    walk = q, v, decay, chunks
    entering, leaving = (
        enter_segments(summarize_segments(*walk, reverse=back), chunks, initial, reverse=back)
        for back in (False, True)
    )
    forward(q, q, v, decay, chunks, entering)
    backward(q, q, v, decay, v, chunks, entering, leaving)


def of_spans() -> None:
    """Summaries of whole documents and of cut ones, which begin at even and at odd places."""
    k, v, decay = torch.zeros(256, 1, 64), torch.zeros(256, 2, 64), torch.zeros(256, 2)
    for lengths in ((100, 156), (60, 40, 156)):
        for segment in (None, 1):
            chunks = ChunkTable.build(lengths, 64, segment=segment)
            summary = summarize_segments(k, v, decay, chunks, reverse=False)
            span_state(k, v, decay, chunks, summary, alive=True)
