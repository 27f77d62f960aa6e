"""The Triton kernels of the scalar-decay recurrence equal its naive form, on hard inputs."""

from __future__ import annotations

import pytest
import torch
from ssd_cases import CASES, Case, draw, exact, last_document, naive, relative_error, table

from lmtrain_kernels.ssd import forward, span_state

TOLERANCE = 1e-4

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@cases
def test_outputs_and_final_state(case: Case) -> None:
    inputs = draw(case)
    result = forward(*inputs[:4], table(case), inputs.initial)
    out, final = naive(case, exact(inputs))
    assert relative_error(result.out, out) < TOLERANCE
    assert relative_error(result.final, final) < TOLERANCE


@pytest.mark.parametrize("name", ["several documents", "segments", "odd head sizes", "no decay"])
def test_state_of_a_span(name: str) -> None:
    case = CASES[name]
    inputs = draw(case)
    transition, state = span_state(*inputs[1:4], table(case), alive=True)
    alone, tokens = last_document(case, exact(inputs))
    assert relative_error(state, naive(alone, tokens)[1]) < TOLERANCE
    torch.testing.assert_close(transition.cpu().double(), tokens.decay.sum(0).exp())
    dead, same = span_state(*inputs[1:4], table(case), alive=False)
    assert not dead.any()
    assert torch.equal(same, state)
