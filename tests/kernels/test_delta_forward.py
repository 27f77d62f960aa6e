"""The forward kernels of the gated delta rule against its obvious form, chunk by chunk."""

from __future__ import annotations

import pytest
import torch
from ahead_of_time import compiled, problems
from cards import DEVICE, each_card
from delta_inputs import CASES, Case, Inputs, draw, layout, phases, relative_error, table
from torch import Tensor

from lmtrain.ops import reference
from lmtrain_kernels.delta_forward import forward, walk
from lmtrain_kernels.delta_outputs import outputs
from lmtrain_kernels.delta_prepare import Prepared, prepare, recompute, solve
from lmtrain_kernels.delta_states import (
    States,
    enter_segments,
    no_summary,
    pass_states,
    span_state,
    summarize_segments,
)
from lmtrain_kernels.table import ChunkTable

TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
ILL = "alike keys, beta two"
"""Its condition is about a thousand: fp32 cannot do better in any order of sums."""

QUICK = {
    *("several documents", "grouped key heads", ILL, "segments", "one token"),
    *("odd head sizes", "wide keys", "a long document among short ones"),
}
"""Cases whose phases every test run sees; `test_gated_delta` has all of them, from end to end."""


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in CASES]
)
def test_every_phase(name: str) -> None:
    check_phases(CASES[name], torch.float32, 1e-3 if name == ILL else TOLERANCE[torch.float32])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("several documents", torch.float16),
        ("segments", torch.bfloat16),
        ("usual head sizes", torch.bfloat16),
    ],
    ids=str,
)
def test_every_phase_in_16_bits(name: str, dtype: torch.dtype) -> None:
    check_phases(CASES[name], dtype, TOLERANCE[dtype])


def pass_all(
    k: Tensor, prepared: Prepared, chunks: ChunkTable, initial: Tensor | None = None
) -> States:
    """The states of all chunks."""
    entering = enter_segments(summarize_segments(k, prepared, chunks), chunks, initial)
    return pass_states(k, prepared, chunks, entering)


def check_phases(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    inputs, chunks = draw(case, dtype), table(case)
    q, k, v, decay, beta, initial = inputs
    expected = phases(inputs, chunks)
    prepared = prepare(k, v, decay, beta, chunks)
    passed = pass_all(k, prepared, chunks, initial)
    out = outputs(q, k, prepared.total, passed.states, passed.written, chunks)
    actual = (*prepared, *passed[:2], out, passed.final)
    errors = map(relative_error, actual, expected)
    found = {n: e for n, e in zip(expected._fields, errors, strict=True) if not e <= tolerance}
    assert not found

    assert prepared.total.dtype == passed.final.dtype == torch.float32
    assert {x.dtype for x in (*prepared[1:], *passed[:2], out)} == {dtype}
    w, u = recompute(k, v, beta, prepared.total, prepared.inverse, chunks)
    assert torch.equal(w, prepared.w)
    assert torch.equal(u, prepared.u)


@pytest.mark.parametrize(
    "name", ["several documents", "grouped key heads", "odd head sizes", "low-rank keys"]
)
def test_outputs_in_one_walk(name: str) -> None:
    case = CASES[name]
    inputs, chunks = draw(case), table(case)
    q, k, v, decay, beta, initial = inputs
    total, inverse, scores = solve(q, k, decay, beta, chunks)
    entering = enter_segments(no_summary(k, v), chunks, initial)
    out, final = walk(q, k, v, beta, total, inverse, scores, chunks, entering)
    expected = phases(inputs, chunks)
    assert relative_error(inverse, expected.inverse) < 1e-4
    assert relative_error(out, expected.out) < 1e-4
    assert relative_error(final, expected.final) < 1e-4


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("segments", torch.bfloat16),
        ("a long document among short ones", torch.float16),
        ("several documents", torch.float16),
        ("one token", torch.float32),
        ("wide keys", torch.float16),
    ],
    ids=str,
)
def test_forward(name: str, dtype: torch.dtype) -> None:
    inputs, chunks = draw(CASES[name], dtype), table(CASES[name])
    expected = phases(inputs, chunks)
    found = forward(*inputs[:5], chunks, inputs.initial)
    assert (found.out.dtype, found.final.dtype) == (dtype, torch.float32)
    for field in ("out", "final", "total", "inverse"):
        error = relative_error(getattr(found, field), getattr(expected, field))
        assert error < TOLERANCE[dtype], field
    assert len(found.transition) == len(chunks.linked)
    assert len(found.entering) == (len(chunks.linked) or CASES[name].continues)


@pytest.mark.parametrize("name", ["a key head for each value head"])
def test_outputs_equal_the_reference(name: str) -> None:
    inputs = draw(CASES[name])
    q, k, v, decay, beta, initial = inputs
    *wide, start = (x if x is None else x.double().cpu() for x in inputs)
    out, final = reference.gated_delta(*wide, layout=layout(CASES[name]), initial=start)  # type: ignore[arg-type]
    chunks = table(CASES[name])
    prepared = prepare(k, v, decay, beta, chunks)
    passed = pass_all(k, prepared, chunks, initial)
    actual = outputs(q, k, prepared.total, passed.states, passed.written, chunks)
    assert relative_error(actual, out) < 1e-4
    assert relative_error(passed.final, final) < 1e-4


def test_a_state_enters_the_first_document_alone() -> None:
    case = Case((70, 3, 70), continues=True)
    _, k, v, decay, beta, initial = draw(case)
    chunks = table(case)
    prepared = prepare(k, v, decay, beta, chunks)
    states = pass_all(k, prepared, chunks, initial).states
    assert initial is not None
    assert torch.equal(states[0], initial)
    assert not states[2].any()
    assert not states[3].any()
    assert not pass_all(k, prepared, chunks).states[0].any()


def test_segments_change_nothing() -> None:
    case = Case((1, 270, 64), heads=1, continues=True, decay="weak", segment=2)
    _, k, v, decay, beta, initial = draw(case)
    cut, whole = table(case), table(case._replace(segment=None))
    prepared = prepare(k, v, decay, beta, whole)
    expected = pass_all(k, prepared, whole, initial)
    actual = pass_all(k, prepared, cut, initial)
    for a, b in zip(actual, expected, strict=True):
        assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize(
    ("lengths", "segment"),
    [
        ((270,), 2),
        ((20, 140), None),
        pytest.param((270,), None, marks=pytest.mark.long),
        pytest.param((20, 140), 2, marks=pytest.mark.long),
    ],
)
def test_summary_of_the_last_document(lengths: tuple[int, ...], segment: int | None) -> None:
    case = Case(lengths, decay="weak", segment=segment, value=48)
    inputs, chunks = draw(case), table(case)
    _, k, v, decay, beta, _ = inputs
    prepared = prepare(k, v, decay, beta, chunks)
    summary = summarize_segments(k, prepared, chunks)
    transition, state = span_state(k, prepared, chunks, summary, alive=True)
    tail = (x[-lengths[-1] :] for x in inputs[:5])
    last = Inputs(*tail, initial=None)  # type: ignore[call-arg]
    assert relative_error(state, phases(last, alone(lengths[-1])).final) < 1e-4
    assert relative_error(transition, pass_identity(last, case)) < 1e-4

    stopped, same = span_state(k, prepared, chunks, summary, alive=False)
    assert torch.equal(same, state)
    assert not stopped.any()


def pass_identity(inputs: Inputs, case: Case) -> Tensor:
    """Where the identity goes when no values are written, ``[h, k, k]``."""
    t = len(inputs.q)
    nothing = torch.zeros(t, case.heads, case.key, device=DEVICE)
    identity = torch.eye(case.key, device=DEVICE).expand(case.heads, -1, -1)
    return phases(inputs._replace(v=nothing, initial=identity), alone(t)).final


def alone(length: int) -> ChunkTable:
    return ChunkTable.build([length], 64, device=DEVICE)


def test_a_token_sees_nothing_behind_it_or_in_other_documents() -> None:
    case = Case((70, 30))
    q, k, v, decay, beta, _ = draw(case)
    chunks = table(case)

    def out(v: Tensor) -> Tensor:
        prepared = prepare(k, v, decay, beta, chunks)
        passed = pass_all(k, prepared, chunks)
        return outputs(q, k, prepared.total, passed.states, passed.written, chunks)

    before, changed = out(v), v.clone()
    changed[66] += 100
    changed = (out(changed) != before).flatten(1).any(1).nonzero().flatten()
    assert changed.min() == 66
    assert changed.max() <= 69


@pytest.mark.parametrize(
    ("size", "groups", "dtype", "says"),
    [
        (32, 1, torch.float32, "size=64"),
        (64, 3, torch.float32, "do not divide"),
        (64, 1, torch.float16, "cast both"),
    ],
)
def test_what_is_refused(size: int, groups: int, dtype: torch.dtype, says: str) -> None:
    k, v = torch.randn(9, groups, 16).to(DEVICE, dtype), torch.randn(9, 4, 16, device=DEVICE)
    number = torch.zeros(9, 4, device=DEVICE)
    with pytest.raises(ValueError, match=says):
        prepare(k, v, number, number, ChunkTable.build([9], size, device=DEVICE))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "dots"),
    [
        ("bf16", {"_prepare", "_walk", "_summarize_segment", "_outputs"}),
        ("outputs_in_one_walk", {"_prepare", "_walk_outputs"}),
        ("fp32", set()),
    ],
)
@each_card
def test_every_launch_fits_a_card(case: str, dots: set[str], card: int) -> None:
    kernels = compiled("delta_forward_cases", case, card)
    assert {kernel["name"] for kernel in kernels} >= dots
    assert not problems(kernels, tensor_cores=frozenset(dots))
