"""SwiGLU on Triton against its naive form."""

from __future__ import annotations

import pytest
import torch
from ahead_of_time import compiled, problems
from cards import DEVICE, each_card
from delta_inputs import relative_error

from lmtrain.ops import reference
from lmtrain_kernels.swiglu import swiglu

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(1, 2), (7, 96), (33, 1400), (4, 1024)])
def test_equals_the_naive_form(shape: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    exact = (3 * torch.randn(shape)).to(dtype).double().requires_grad_()
    d_out = torch.randn(shape[0], shape[1] // 2).to(dtype)
    expected = reference.swiglu(exact)
    x = exact.detach().to(DEVICE, dtype).requires_grad_()
    actual = swiglu(x)
    pairs = (
        (actual, expected),
        (
            torch.autograd.grad(actual, x, d_out.to(DEVICE))[0],
            torch.autograd.grad(expected, exact, d_out.double())[0],
        ),
    )
    for a, b in pairs:
        assert a.dtype == dtype
        assert relative_error(a, b) < TOLERANCE[dtype]


def test_large_gates_stay_finite() -> None:
    x = torch.tensor([[-80.0, 80.0, 3.0, 3.0]], device=DEVICE).requires_grad_()
    y = swiglu(x)
    (dx,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y.tolist(), [[0.0, 240.0]], rtol=1e-6, atol=1e-30)
    torch.testing.assert_close(dx.tolist(), [[0.0, 3.0, 0.0, 80.0]], rtol=1e-6, atol=1e-30)


def test_a_slice_of_a_wider_row_and_another_order() -> None:
    torch.manual_seed(0)
    wide = torch.randn(5, 40, device=DEVICE).requires_grad_()
    d_out = torch.randn(8, 5, device=DEVICE).t()
    actual, expected = swiglu(wide[:, 8:24]), reference.swiglu(wide[:, 8:24])
    a, b = (torch.autograd.grad(y, wide, d_out)[0] for y in (actual, expected))
    assert relative_error(actual, expected) < 1e-6
    assert relative_error(a, b) < 1e-6


def test_one_operator_for_torch() -> None:
    x = torch.randn(3, 8, device=DEVICE).requires_grad_()
    torch.library.opcheck(torch.ops.lmtrain.swiglu.default, (x,))


@pytest.mark.parametrize(
    "x", [torch.zeros(3, 5), torch.zeros(6), torch.zeros(3, 4, dtype=torch.float64)]
)
def test_refuses(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"gate_up must be \[t, 2 h\] of bf16, fp16 or fp32"):
        swiglu(x)


@pytest.mark.slow
@each_card
def test_compiles_ahead_of_time(card: int) -> None:
    kernels = compiled("pointwise_cases", "activate", card)
    assert len(kernels) == 8
    assert not problems(kernels, tensor_cores=frozenset())
