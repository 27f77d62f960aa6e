"""The L2 norm on Triton against its naive form: outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from ahead_of_time import compiled, problems
from cards import DEVICE, each_card

from lmtrain.ops import reference
from lmtrain_kernels.l2_norm import l2_norm

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def draw(t: int, heads: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Heads that are a slice of something wider."""
    wide = torch.randn(t, (heads + 1) * width).to(DEVICE, dtype).requires_grad_()
    return wide[:, : heads * width].unflatten(1, (heads, width))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b).norm() / b.norm()).item()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 16), (7, 3, 24), (65, 2, 128), (3, 1, 300)], ids=str)
def test_equals_the_naive_form(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    x, d_out = draw(*shape, dtype), torch.randn(shape).to(DEVICE, dtype)
    exact = x.detach().double().requires_grad_()
    expected, actual = reference.l2_norm(exact, 0.3), l2_norm(x, 0.3)
    (want,) = torch.autograd.grad(expected, exact, d_out.double())
    (have,) = torch.autograd.grad(actual, x, d_out)
    assert actual.is_contiguous()
    assert actual.dtype == dtype
    assert relative(actual, expected) < TOLERANCE[dtype]
    assert relative(have, want) < TOLERANCE[dtype]


def test_is_an_operator() -> None:
    x = draw(5, 2, 16, torch.float32).detach().requires_grad_()
    torch.library.opcheck(torch.ops.lmtrain.l2_norm, (x, 0.5, 1e-6))


def test_refuses_what_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="neighbouring heads"):
        l2_norm(torch.zeros(4, 16, 3, device=DEVICE).mT)


@pytest.mark.slow
@each_card
def test_compiles_ahead_of_time(card: int) -> None:
    kernels = compiled("l2_norm_cases", "normalize", card)
    assert {kernel["card"] for kernel in kernels} == {card}
    assert problems(kernels, tensor_cores=frozenset()) == []
