"""Inputs that are hard for the gated delta rule, and its intermediates in obvious form."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from cards import DEVICE
from torch import Tensor

from lmtrain.layout import SequenceLayout
from lmtrain_kernels.table import ChunkTable


class Case(NamedTuple):
    """Shapes, and how keys, decays and betas are drawn."""

    lengths: tuple[int, ...]
    heads: int = 2
    groups: int = 1
    key: int = 32
    value: int = 32
    keys: str = "random"
    """``random`` | ``low-rank`` (two directions and their sums) | ``alike`` (nearly one)."""
    decay: str = "any"
    """``any`` (1e-5 to 30 a token) | ``weak`` (1e-5) | ``strong`` (10 to 30)."""
    beta: str = "any"
    """``any`` (0 to 2, both ends included) | ``small`` (1e-3) | ``two``."""
    continues: bool = False
    """The first document began before: a state enters it."""
    segment: int | None = None
    """The most chunks of a segment."""


CASES = {
    "one document of odd length": Case((150,), heads=1),
    "several documents": Case((1, 63, 70, 2, 64), continues=True),
    "a key head for each value head": Case((90, 40), heads=2, groups=2, continues=True),
    "grouped key heads": Case((70,), heads=4, groups=2),
    "low-rank keys": Case((130,), heads=1, keys="low-rank", decay="weak", continues=True),
    "alike keys, beta two": Case((130,), heads=1, keys="alike", decay="weak", beta="two"),
    "small beta": Case((100,), heads=1, beta="small"),
    "strong decay": Case((100, 30), heads=1, decay="strong", continues=True),
    "weak decay": Case((190,), heads=1, decay="weak", beta="small"),
    "segments": Case((330, 65, 130), segment=2, decay="weak", heads=1, continues=True),
    "a long document among short ones": Case((5, 70, 130, 3, 20), segment=2, continues=True),
    "one token": Case((1,), continues=True),
    "odd head sizes": Case((70, 9), heads=1, key=48, value=96, continues=True),
    "wide keys": Case((67,), heads=1, key=256, value=64, continues=True),
    "wide values": Case((66,), heads=1, key=64, value=256, continues=True),
    "usual head sizes": Case((65,), heads=1, key=128, value=128, continues=True),
}


class Inputs(NamedTuple):
    """``q, k [t, g, kd], v [t, h, vd], decay, beta [t, h]``, ``initial [h, kd, vd]`` or None."""

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor
    beta: Tensor
    initial: Tensor | None


def draw(case: Case, dtype: torch.dtype = torch.float32) -> Inputs:
    """Fresh inputs on ``DEVICE``; ``q, k, v`` in ``dtype``, the rest in fp32."""
    t, h, g = sum(case.lengths), case.heads, case.groups
    k = _keys(case.keys, t, g, case.key)
    q = torch.randn(t, g, case.key) * case.key**-0.5
    v = torch.randn(t, h, case.value)
    initial = torch.randn(h, case.key, case.value) if case.continues else None
    q, k, v = (x.to(DEVICE, dtype) for x in (q, k, v))
    decay, beta = _decay(case.decay, t, h).to(DEVICE), _beta(case.beta, t, h).to(DEVICE)
    return Inputs(q, k, v, decay, beta, None if initial is None else initial.to(DEVICE))


def layout(case: Case) -> SequenceLayout:
    """The span for ``lmtrain.ops.reference``; a document that continues began 3 tokens before."""
    before = 3 if case.continues else 0
    row = SequenceLayout.of_lengths((case.lengths[0] + before, *case.lengths[1:]))
    return SequenceLayout(row.bounds, before, row.bounds[-1])


def table(case: Case, size: int = 64) -> ChunkTable:
    """The chunks of a case, on ``DEVICE``."""
    return ChunkTable.build(case.lengths, size, segment=case.segment, device=DEVICE)


class Phases(NamedTuple):
    """What the kernels hand to each other, in fp64: shapes as theirs (chunks of ``n``)."""

    total: Tensor
    inverse: Tensor
    w: Tensor
    u: Tensor
    states: Tensor
    written: Tensor
    out: Tensor
    final: Tensor


def phases(inputs: Inputs, table: ChunkTable) -> Phases:
    """Chunk after chunk and head after head, on the host; differentiable."""
    q, k, v, decay, beta = (x.double().cpu() for x in inputs[:5])
    initial = None if inputs.initial is None else inputs.initial.double().cpu()
    shared = v.shape[1] // k.shape[1]
    q, k = (x.repeat_interleave(shared, 1).transpose(0, 1) for x in (q, k))  # [h, t, kd]
    v, decay, beta = v.transpose(0, 1), decay.mT, beta.mT
    zero = v.new_zeros(v.shape[0], k.shape[2], v.shape[2])
    alone = range(len(table.linked), len(table.segments))
    begins = [first for first, _ in table.documents.tolist()] + list(alone)
    opening = {int(table.segments[first, 0]) for first in begins}
    found: list[tuple[Tensor, ...]] = []
    states: list[Tensor] = []
    state = zero
    for n, (start, stop) in enumerate(table.chunks.tolist()):
        if n in opening:
            state = initial if n == 0 and initial is not None else zero
        states.append(state)
        Q, K, V = (x[:, start:stop] for x in (q, k, v))
        G, b = decay[:, start:stop].cumsum(1), beta[:, start:stop, None]
        between = (G[:, :, None] - G[:, None, :]).tril().exp().tril()
        A = (b * (K @ K.mT) * between).tril(-1)
        eye = torch.eye(stop - start, dtype=torch.float64).expand_as(A)
        T = torch.linalg.solve_triangular(eye + A, eye, upper=False)
        inflow, last = G.exp()[..., None], G[:, -1:]
        w, u = T @ (b * inflow * K), T @ (b * V)
        written = u - w @ state
        out = inflow * (Q @ state) + ((Q @ K.mT) * between) @ written
        outflow = (last - G).exp()[..., None]
        state = last.exp()[..., None] * state + (outflow * K).mT @ written
        T = F.pad(T, (0, table.size - T.shape[-1]))
        found.append((G[..., None], T, w, u, written, out))
    G, T, w, u, written, out = (torch.cat(x, 1).transpose(0, 1) for x in zip(*found, strict=True))
    return Phases(G.squeeze(-1), T, w, u, torch.stack(states), written, out, state)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """``||a - b|| / ||b||``; 0 / 0 is 0."""
    a, b = actual.detach().double().cpu(), expected.detach().double().cpu()
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def _keys(kind: str, t: int, g: int, width: int) -> Tensor:
    if kind == "random":
        return F.normalize(torch.randn(t, g, width), dim=-1)
    if kind == "low-rank":
        return F.normalize(torch.randn(t, g, 2) @ torch.randn(2, width), dim=-1)
    return F.normalize(torch.randn(1, g, width) + 1e-2 * torch.randn(t, g, width), dim=-1)


def _decay(kind: str, t: int, h: int) -> Tensor:
    if kind == "weak":
        return -1e-5 * torch.rand(t, h)
    if kind == "strong":
        return -10 - 20 * torch.rand(t, h)
    return -(10 ** torch.empty(t, h).uniform_(-5, 1.5)).clamp(max=30)


def _beta(kind: str, t: int, h: int) -> Tensor:
    if kind == "two":
        return torch.full((t, h), 2.0)
    if kind == "small":
        return 1e-3 * torch.rand(t, h)
    return (torch.rand(t, h) * 2.4 - 0.2).clamp(0, 2)
