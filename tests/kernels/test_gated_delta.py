"""The gated delta rule as one operation: against its naive form, and as torch sees it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ahead_of_time import compiled, problems
from cards import DEVICE, each_card
from delta_backward_cases import TENSOR_CORES
from delta_inputs import CASES, Case, Inputs, draw, layout, relative_error, table
from torch import Tensor

from lmtrain.ops import reference
from lmtrain_kernels import delta_backward, delta_outputs, delta_prepare, delta_states
from lmtrain_kernels.gated_delta import gated_delta
from lmtrain_kernels.tuned import tuned

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
AMPLIFIED = 5
"""Alike keys and beta 2 amplify what rounding fp32 does to ``A`` alone, before any solving."""
NAMES = ["q", "k", "v", "decay", "beta", "initial"]


def differentiable(inputs: Inputs, *, exact: bool = False) -> Inputs:
    """Copies that want gradients; if ``exact`` in fp64 on the host."""
    copies = (x if x is None else x.detach().clone() for x in inputs)
    if exact:
        copies = (x if x is None else x.double().cpu() for x in copies)
    return Inputs(*(x if x is None else x.requires_grad_() for x in copies))  # type: ignore[arg-type]


def compare(case: Case, dtype: torch.dtype, *, ends: bool) -> None:
    """Outputs, final state and all gradients."""
    tolerance = TOLERANCE[dtype] * (AMPLIFIED if case.beta == "two" else 1)
    found = errors(case, dtype, ends=ends)
    assert not {name: error for name, error in found.items() if not error < tolerance}


def errors(case: Case, dtype: torch.dtype, *, ends: bool) -> dict[str, float]:
    """Relative ones, to the naive form in fp64; of the gradients under the names of inputs."""
    inputs = differentiable(draw(case, dtype))
    exact = differentiable(inputs, exact=True)
    actual = gated_delta(*inputs[:5], table(case), inputs.initial)
    expected = reference.gated_delta(*exact[:5], layout=layout(case), initial=exact.initial)
    cotangents = [torch.randn(x.shape) for x in expected]
    if not ends:
        cotangents[1].zero_()
    wanted = [x for x in exact if x is not None]
    want = torch.autograd.grad(expected, wanted, [x.double() for x in cotangents])
    taken = [x for x in inputs if x is not None]
    seeds = [c.to(x) for c, x in zip(cotangents, actual, strict=True)]
    have = torch.autograd.grad(actual[: 1 + ends], taken, seeds[: 1 + ends])
    pairs = zip(["out", "final", *NAMES], [*actual, *have], [*expected, *want], strict=False)
    return {name: relative_error(a, b) for name, a, b in pairs}


@pytest.fixture
def wide_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter, fp32 runs in the tiles of 16-bit inputs: those matter most."""
    if DEVICE.type == "cuda":
        return

    def of_bf16(kernel: str, device: torch.device, **key: int | str) -> dict[str, Any]:
        return tuned(kernel, device, **key | {"dtype": "bfloat16"} if "dtype" in key else key)

    for module in (delta_backward, delta_outputs, delta_prepare, delta_states):
        monkeypatch.setattr(module, "tuned", of_bf16)


@pytest.mark.usefixtures("wide_tiles")
@pytest.mark.parametrize(
    # the phases of `test_backend` go through segments in every run
    "name",
    [pytest.param(n, marks=[pytest.mark.long] if n == "segments" else []) for n in CASES],
)
def test_equals_the_naive_form(name: str) -> None:
    torch.manual_seed(3)
    compare(CASES[name], torch.float32, ends=list(CASES).index(name) % 2 == 0)


@pytest.mark.parametrize(
    "name", [pytest.param("several documents", marks=pytest.mark.long), "grouped key heads"]
)
def test_sixteen_bit_inputs(name: str) -> None:
    torch.manual_seed(4)
    case = CASES[name]._replace(decay="weak" if name == "grouped key heads" else "any")
    compare(case, torch.bfloat16, ends=True)


def test_the_gradient_of_the_final_state_alone() -> None:
    case = Case((20,), continues=True)
    inputs = differentiable(draw(case))
    _, final = gated_delta(*inputs[:5], table(case), inputs.initial)
    final.sum().backward()
    assert inputs.q.grad is not None
    assert not inputs.q.grad.any()
    assert inputs.v.grad is not None
    assert inputs.v.grad.any()


@pytest.mark.usefixtures("wide_tiles")
@pytest.mark.parametrize("continues", [True, False])
def test_torch_may_trace_it(*, continues: bool) -> None:
    case = Case((3,), heads=1, key=16, value=16, continues=continues)
    arguments = (*differentiable(draw(case)), *table(case))
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    checks += ["test_aot_dispatch_dynamic"] * continues
    torch.library.opcheck(torch.ops.lmtrain.gated_delta.default, arguments, test_utils=checks)


@pytest.mark.usefixtures("wide_tiles")
def test_a_compiled_function_gives_the_same() -> None:
    case = Case((20, 3), heads=1, continues=True)
    inputs, chunks = draw(case), table(case)

    def double(q: Tensor, v: Tensor) -> Tensor:
        out, final = gated_delta(2 * q, inputs.k, v, *inputs[3:5], chunks, inputs.initial)
        return out.sin().sum() + final.sum()

    eager = [x.clone().requires_grad_() for x in (inputs.q, inputs.v)]
    traced = [x.clone().requires_grad_() for x in (inputs.q, inputs.v)]
    expected = double(*eager)
    actual = torch.compile(double, fullgraph=True, backend="aot_eager")(*traced)
    expected.backward()
    actual.backward()
    torch.testing.assert_close(actual, expected)
    for a, b in zip(traced, eager, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_refused(dtype: torch.dtype) -> None:
    case = Case((9,), heads=3)
    q, k, v, decay, beta, _ = draw(case)
    q, k, v, chunks = q.to(dtype), k.to(dtype), v.to(dtype), table(case)
    two, wide = k.expand(-1, 2, -1), k.repeat(1, 1, 9)
    for says, inputs in {
        "make them alike": (q[..., :16], k, v, decay, beta),
        "cast both": (q, k, v.double(), decay, beta),
        "3 value heads do not divide by 2": (two, two, v, decay, beta),
        "want .t, g, k., .t, h, v.": (q, k, v, decay, beta[:, :1]),
        "up to 256": (wide, wide, v, decay, beta),
    }.items():
        with pytest.raises(ValueError, match=says):
            gated_delta(*inputs, chunks)
    with pytest.raises(ValueError, match="the initial state is"):
        gated_delta(q, k, v, decay, beta, chunks, v.new_zeros(1, k.shape[2], v.shape[2]))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@each_card
def test_every_backward_launch_fits_a_card(dtype: str, card: int) -> None:
    kernels = compiled("delta_backward_cases", dtype, card)
    assert {kernel["name"] for kernel in kernels} == TENSOR_CORES
    cores = TENSOR_CORES if dtype == "bf16" else frozenset[str]()
    assert not problems(kernels, tensor_cores=cores)
