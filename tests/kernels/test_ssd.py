"""The Triton kernels of the scalar-decay recurrence equal its naive form, on hard inputs."""

from __future__ import annotations

import pytest
import torch
from ahead_of_time import compiled, problems
from cards import DEVICE, USUAL, each_card
from ssd_cases import (
    CASES,
    Case,
    Inputs,
    draw,
    exact,
    first_document,
    last_document,
    naive,
    relative_error,
    table,
)
from torch import Tensor

from lmtrain_kernels.ssd import ssd
from lmtrain_kernels.ssd_backward import _splits
from lmtrain_kernels.ssd_segments import cosummary, span_state, summarize_segments
from lmtrain_kernels.ssd_tiles import Shapes

TOLERANCE = 1e-4
TENSOR_CORES = frozenset({"_forward", "_walk", "_walk_back", "_gradients"})

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture
def tiles_of_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs fp32 in the tiles that bf16 has on a card: fewer, and those that count.

    A card would have no room for them.
    """
    if DEVICE.type == "cpu":
        key = Shapes.launch_key
        monkeypatch.setattr(Shapes, "launch_key", lambda self, _: key(self, torch.bfloat16))


def gradients(
    results: tuple[Tensor, Tensor], inputs: Inputs, d_out: Tensor | None, d_final: Tensor | None
) -> tuple[Tensor, ...]:
    """Of all inputs, for the gradients of outputs and final state that are given."""
    pairs = [(x, d.to(x)) for x, d in zip(results, (d_out, d_final), strict=True) if d is not None]
    leaves = [x for x in inputs if x is not None]
    return torch.autograd.grad(
        [x for x, _ in pairs], leaves, [d for _, d in pairs], materialize_grads=True
    )


def compare(
    case: Case, *, d_out: bool = True, d_final: bool = True, dtype: torch.dtype = torch.float32
) -> list[float]:
    """Relative errors of outputs, final state and every gradient."""
    inputs = draw(case, dtype)
    reference = exact(inputs)
    for x in (*inputs, *reference):
        if x is not None:
            x.requires_grad_()
    q, k, v, decay, initial = inputs
    have, want = ssd(q, k, v, decay, table(case), initial), naive(case, reference)
    d_results = (
        torch.randn_like(want[0]) if d_out else None,
        torch.randn_like(want[1]) if d_final else None,
    )
    have_grads = gradients(have, inputs, *d_results)
    want_grads = gradients(want, reference, *d_results)
    pairs = zip((*have, *have_grads), (*want, *want_grads), strict=True)
    return [relative_error(a, b) for a, b in pairs]


@pytest.mark.usefixtures("tiles_of_bf16")
@cases
def test_results_and_gradients(case: Case) -> None:
    assert max(compare(case)) < TOLERANCE


@pytest.mark.parametrize("name", ["several documents", "chunks of 16"])
def test_tiles_of_fp32(name: str) -> None:
    small = CASES[name]._replace(lengths=(1, 30))
    assert max(compare(small)) < TOLERANCE


@pytest.mark.parametrize("given", ["d_out", "d_final"])
def test_gradients_of_one_result(given: str) -> None:
    case = CASES["chunks of 16"]
    assert max(compare(case, d_out=given == "d_out", d_final=given == "d_final")) < TOLERANCE


@pytest.mark.parametrize("decay", ["weak", "any", "strong"])
def test_16_bits(decay: str) -> None:
    """The decay's gradient too: it is a difference, which rounding could swallow."""
    assert max(compare(Case((150, 20), decay=decay), dtype=torch.bfloat16)) < 2e-2


@pytest.mark.usefixtures("tiles_of_bf16")
@pytest.mark.parametrize("name", ["several documents", "segments from nothing", "odd head sizes"])
def test_state_of_a_span(name: str) -> None:
    case = CASES[name]
    inputs = draw(case)
    span = *inputs[1:4], table(case)
    summary = summarize_segments(*span, reverse=False)
    transition, state = span_state(*span, summary, alive=True)
    alone, tokens = last_document(case, exact(inputs))
    assert relative_error(state, naive(alone, tokens)[1]) < TOLERANCE
    torch.testing.assert_close(transition.cpu().double(), tokens.decay.sum(0).exp())
    dead, same = span_state(*span, summary, alive=False)
    assert not dead.any()
    assert torch.equal(same, state)


@pytest.mark.usefixtures("tiles_of_bf16")
@pytest.mark.parametrize("name", ["several documents", "segments", "odd head sizes"])
def test_gradient_of_what_enters_a_span(name: str) -> None:
    case = CASES[name]
    inputs = draw(case)
    d_out = torch.randn_like(inputs.v)
    chunks = table(case)
    summary = summarize_segments(inputs.q, d_out, inputs.decay, chunks, reverse=True)
    have = cosummary(inputs.q, inputs.decay, d_out, chunks, summary)
    alone, reference = first_document(case, exact(inputs))
    assert reference.initial is not None
    out, _ = naive(alone, reference._replace(initial=reference.initial.requires_grad_()))
    given = d_out[: alone.lengths[0]].cpu().double()
    (want,) = torch.autograd.grad(out, reference.initial, given)
    assert relative_error(have, want) < TOLERANCE


def test_operator_is_sound() -> None:
    case = Case((20, 5), key=16, value=16, continues=True)
    *tokens, initial = draw(case)
    arguments = (*(x.requires_grad_() for x in tokens), initial, *table(case))
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    torch.library.opcheck(torch.ops.lmtrain.ssd.default, arguments, test_utils=checks)


def test_compiles_as_one_node() -> None:
    case = Case((30, 9), key=16, value=16, segment=1, size=16)
    inputs = draw(case)
    for x in inputs[:4]:
        x.requires_grad_()

    def twice(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
        out, final = ssd(q, k, 2 * v, decay, chunks)
        return 2 * out, final

    chunks = table(case)
    eager = twice(*inputs[:4])
    whole = torch.compile(twice, fullgraph=True, backend="aot_eager")(*inputs[:4])
    d_out, d_final = (torch.randn_like(x) for x in eager)
    want, have = (gradients(x, inputs, d_out, d_final) for x in (eager, whole))
    for a, b in zip((*whole, *have), (*eager, *want), strict=True):
        assert torch.equal(a, b)


def test_refuses_what_it_cannot_do() -> None:
    case = Case((20,), heads=3, groups=2)
    q, k, v, decay, _ = draw(case)
    with pytest.raises(ValueError, match="multiple of g"):
        ssd(q, k, v, decay, table(case))
    with pytest.raises(ValueError, match="key head size 8"):
        ssd(q[..., :8], k[..., :8], v[:, :2], decay[:, :2], table(case))
    with pytest.raises(ValueError, match="make them alike"):
        ssd(q.double(), k, v, decay, table(case))
    with pytest.raises(ValueError, match="the initial state is"):
        ssd(q, k, v[:, :2], decay[:, :2], table(case), v.new_zeros(1, k.shape[2], v.shape[2]))


@pytest.mark.slow
@pytest.mark.parametrize("function", ["of_bf16", "of_fp32"])
@each_card
def test_compiles_ahead_of_time(function: str, card: int) -> None:
    cores = TENSOR_CORES if function == "of_bf16" else frozenset()
    assert not problems(compiled("ssd_cases", function, card), tensor_cores=cores)


@pytest.mark.slow
def test_where_a_document_begins_compiles_nothing_again() -> None:
    """A walk of segments, and their scan: of those that enter each, and of a whole document."""
    kernels = compiled("ssd_cases", "of_spans", USUAL)
    assert sorted(kernel["name"] for kernel in kernels) == ["_scan", "_walk"]


@pytest.mark.parametrize(("tokens", "splits"), [(8192, 4), (32768, 1), (512, 8)])
def test_heads_of_a_group_are_shared_out_where_a_card_would_be_idle(
    tokens: int, splits: int
) -> None:
    """Powers of two just below four programs a multiprocessor are enough of them."""
    assert _splits(tokens // 64, 32, torch.device("cpu")) == splits
