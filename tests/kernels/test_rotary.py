"""Rotary positions on Triton against their naive form."""

from __future__ import annotations

import pytest
import torch
from ahead_of_time import compiled, problems
from cards import DEVICE, each_card
from delta_inputs import relative_error
from torch import Tensor

from lmtrain.ops import reference
from lmtrain_kernels.rotary import rotary

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
SHAPES = [(1, 1, 2, 1), (37, 3, 64, 32), (20, 2, 48, 24), (9, 5, 80, 10), (300, 2, 16, 8)]
"""Tokens, heads, their width, pairs that turn."""


def tables(tokens: int, pairs: int) -> tuple[Tensor, Tensor]:
    """Of angles in no order."""
    angles = 30 * torch.randn(tokens, 1, pairs)
    return angles.cos(), angles.sin()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_naive_form(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    t, h, d, pairs = shape
    exact = torch.randn(t, h, d).to(dtype).double().requires_grad_()
    d_out = torch.randn(t, h, d).to(dtype)
    cos, sin = tables(t, pairs)
    expected = reference.rotate(exact, cos.double(), sin.double())

    wide = torch.full((t, h * d + 16), torch.nan, dtype=dtype, device=DEVICE)
    wide[:, 8:-8] = exact.detach().flatten(1).to(DEVICE, dtype)
    x = wide[:, 8:-8].unflatten(1, (h, d)).requires_grad_()
    actual = rotary(x, cos.to(DEVICE), sin.to(DEVICE))
    (a,) = torch.autograd.grad(actual, x, d_out.to(DEVICE))
    (b,) = torch.autograd.grad(expected, exact, d_out.double())
    for found, right in ((actual, expected), (a, b)):
        assert found.dtype == dtype
        assert relative_error(found, right) < TOLERANCE[dtype]
    assert torch.equal(actual[..., 2 * pairs :], x[..., 2 * pairs :])


def test_there_and_back_is_where_one_began() -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 2, 32, device=DEVICE)
    cos, sin = (table.to(DEVICE) for table in tables(30, 16))
    torch.testing.assert_close(rotary(rotary(x, cos, sin), cos, -sin), x)


def test_gradient_of_another_memory_order() -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 2, 16, device=DEVICE).requires_grad_()
    d_out = torch.randn(16, 2, 9, device=DEVICE).transpose(0, 2)
    cos, sin = (table.to(DEVICE) for table in tables(9, 8))
    a, b = (
        torch.autograd.grad(turn(x, cos, sin), x, d_out)[0] for turn in (rotary, reference.rotate)
    )
    assert relative_error(a, b) < 1e-6


def test_one_operator_for_torch() -> None:
    x = torch.randn(5, 2, 16, device=DEVICE).requires_grad_()
    cos, sin = (table.to(DEVICE) for table in tables(5, 4))
    torch.library.opcheck(torch.ops.lmtrain.rotary.default, (x, cos, sin, False))


@pytest.mark.parametrize(
    ("x", "cos", "says"),
    [
        (torch.zeros(4, 16), torch.zeros(4, 1, 8), r"x must be \[t, h, d\]"),
        (torch.zeros(4, 16, 2).mT, torch.zeros(4, 1, 8), "neighbouring heads"),
        (torch.zeros(4, 2, 16), torch.zeros(4, 1, 9), "n <= 8"),
        (torch.zeros(4, 2, 16), torch.zeros(3, 1, 8), r"cos must be fp32 \[4, 1, n\]"),
        (torch.zeros(4, 2, 16), torch.zeros(4, 1, 8).double(), "got torch.float64"),
    ],
)
def test_refuses(x: Tensor, cos: Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        rotary(x, cos, cos)


@pytest.mark.slow
@each_card
def test_compiles_ahead_of_time(card: int) -> None:
    kernels = compiled("pointwise_cases", "turn", card)
    assert len(kernels) == 8
    assert not problems(kernels, tensor_cores=frozenset())
