"""The phases of the gated delta rule's backward pass, from exact intermediates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from cards import DEVICE
from delta_inputs import CASES, Inputs, Phases, draw, phases, relative_error, table
from torch import Tensor

from lmtrain_kernels.delta_backward import (
    begin_backward,
    cosummarize_segments,
    leave_segments,
    pass_d_states,
    span_cosummary,
)
from lmtrain_kernels.delta_gradients import gradients
from lmtrain_kernels.delta_prepare import Prepared

if TYPE_CHECKING:
    from lmtrain_kernels.table import ChunkTable

TOLERANCE = 1e-4
SOME = [
    *("several documents", "grouped key heads", "strong decay", "segments", "odd head sizes"),
    "a long document among short ones",
]
"""Of the cases; the whole operation is tested on all of them."""
NAMES = ["q", "k", "v", "decay", "beta", "initial"]


def leaves(inputs: Inputs) -> Inputs:
    """In fp64, with gradients and always an initial state."""
    initial = inputs.initial
    if initial is None:
        initial = inputs.q.new_zeros(inputs.v.shape[1], inputs.k.shape[2], inputs.v.shape[2])
    exact = (x.detach().double().cpu().requires_grad_() for x in (*inputs[:5], initial))
    return Inputs(*exact)


def on_card(found: Phases) -> tuple[Prepared, Tensor, Tensor]:
    """``prepared, states, written`` in fp32."""
    total, inverse, w, u, states, written = (
        x.detach().float().contiguous().to(DEVICE) for x in found[:6]
    )
    return Prepared(total, inverse, w, u), states, written


def transitions(k: Tensor, prepared: Prepared, chunks: ChunkTable) -> Tensor:
    """``[m, h, kd, kd]`` of the linked segments, chunk by chunk."""
    total, _, w, _ = (x.double().cpu() for x in prepared)
    keys = k.double().cpu().repeat_interleave(w.shape[1] // k.shape[1], 1)
    found = [torch.empty(0, w.shape[1], w.shape[2], w.shape[2], dtype=torch.float64)]
    for first, last in chunks.linked.tolist():
        transition = torch.eye(w.shape[2], dtype=torch.float64).expand(w.shape[1], -1, -1)
        for start, stop in chunks.chunks[first:last].tolist():
            outflow = (total[stop - 1] - total[start:stop]).exp()[..., None]
            written = -torch.einsum("chk,hkl->chl", w[start:stop], transition)
            carried = total[stop - 1].exp()[:, None, None] * transition
            transition = carried + torch.einsum("chk,chl->hkl", outflow * keys[start:stop], written)
        found.append(transition[None])
    return torch.cat(found).float().to(DEVICE)


@pytest.mark.parametrize("name", SOME)
def test_gradients(name: str) -> None:
    torch.manual_seed(5)
    case, ends = CASES[name], SOME.index(name) % 2 == 1
    inputs, chunks = draw(case), table(case)
    exact = leaves(inputs)
    found = phases(exact, chunks)
    d_out, d_final = torch.randn(inputs.v.shape), torch.randn(found.final.shape) * ends
    target = (found.out * d_out).sum() + (found.final * d_final).sum()
    expected = torch.autograd.grad(target, [x for x in exact if x is not None])

    q, k, v, _, beta, _ = inputs
    (prepared, states, written), d_out = on_card(found), d_out.to(DEVICE)
    transition = transitions(k, prepared, chunks)
    d_written = begin_backward(q, k, prepared.total, d_out, chunks)
    local = cosummarize_segments(q, k, prepared, d_out, d_written, chunks)
    leaving = leave_segments(transition, local, chunks, d_final.to(DEVICE) if ends else None)
    d_states, d_written, d_initial = pass_d_states(
        *(q, k, prepared, d_out, d_written, chunks, leaving)
    )
    actual = gradients(
        *(q, k, v, beta, prepared, states, written, d_out, d_written, d_states, chunks)
    )
    for what, a, b in zip(NAMES, (*actual, d_initial), expected, strict=True):
        assert relative_error(a, b) < TOLERANCE, what


@pytest.mark.parametrize(
    "name", ["several documents", "segments", "a long document among short ones"]
)
def test_cosummary_is_of_the_first_document_alone(name: str) -> None:
    torch.manual_seed(1)
    case = CASES[name]
    inputs, chunks = draw(case), table(case)
    exact = leaves(inputs)
    found, d_out = phases(exact, chunks), torch.randn(inputs.v.shape)
    assert exact.initial is not None
    (expected,) = torch.autograd.grad((found.out * d_out).sum(), exact.initial)

    (prepared, _, _), d_out = on_card(found), d_out.to(DEVICE)
    transition = transitions(inputs.k, prepared, chunks)
    d_written = begin_backward(inputs.q, inputs.k, prepared.total, d_out, chunks)
    span = inputs.q, inputs.k, prepared, d_out, d_written, chunks
    actual = span_cosummary(*span, transition, cosummarize_segments(*span))
    assert relative_error(actual, expected) < TOLERANCE
