"""Decays, betas and steps on Triton against their naive form: outputs and every gradient."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ahead_of_time import compiled, problems
from cards import DEVICE, each_card
from delta_inputs import relative_error
from torch import Tensor

from lmtrain.ops import gates, reference
from lmtrain_kernels.gates import delta_gates, discretize

if TYPE_CHECKING:
    from collections.abc import Callable

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
SHAPES = [(1, 1, 16), (37, 3, 64), (300, 5, 8), (9, 2, 72), (70, 16, 128)]
"""Tokens, heads, and their width."""


def slice_of_wider(x: Tensor, dtype: torch.dtype) -> Tensor:
    """On the card, as a projection has it: nothing else is there to be read."""
    wide = torch.full((len(x), x[0].numel() + 16), torch.nan, dtype=dtype, device=DEVICE)
    wide[:, 8:-8] = x.detach().flatten(1).to(DEVICE, dtype)
    return wide[:, 8:-8].view(x.shape).requires_grad_()


def compare(
    fast: Callable[..., Any], naive: Callable[..., Any], inputs: list[Tensor], dtype: torch.dtype
) -> None:
    """Activations, then two parameters."""
    exact = [x.to(dtype).double().requires_grad_() for x in inputs]
    expected = naive(*exact)
    d_outs = [torch.randn(y.shape).bfloat16() for y in expected]
    gradients = torch.autograd.grad(expected, exact, [d.double() for d in d_outs])
    *activations, bias, A_log = exact
    card = [slice_of_wider(x, dtype) for x in activations]
    card += [x.detach().to(DEVICE, torch.float32).requires_grad_() for x in (bias, A_log)]
    actual = fast(*card)
    given = [d.to(y) for d, y in zip(d_outs, actual, strict=True)]
    found = torch.autograd.grad(actual, card, given)
    for a, b in zip((*actual, *found), (*expected, *gradients), strict=True):
        assert relative_error(a, b) < TOLERANCE[dtype]
    assert [x.dtype for x in found] == [x.dtype for x in card]
    assert all(y.is_contiguous() for y in actual)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["delta", "steps"])
def test_equals_the_naive_form(kind: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    t, h, p = shape
    dt, bias, A_log = 3 * torch.randn(t, h), torch.randn(h) - 4, torch.randn(h)
    if kind == "delta":
        beta = 4 * torch.randn(t, h)
        compare(
            lambda *x: delta_gates(*x, scale=2.0),
            lambda *x: reference.delta_gates(*x, scale=2.0),
            [dt, beta, bias, A_log],
            dtype,
        )
    else:
        compare(discretize, reference.discretize, [torch.randn(t, h, p), dt, bias, A_log], dtype)


def test_small_and_large_steps_keep_their_digits() -> None:
    """Where a logarithm of ``1 + e^x`` in fp32 has none."""
    x = torch.linspace(-80, 80, 4001, dtype=torch.float64)[:, None].float()
    dt = x.to(DEVICE).requires_grad_()
    zero = torch.zeros(1, device=DEVICE)
    decay, beta = delta_gates(dt, dt, zero, zero)
    (gradient,) = torch.autograd.grad(decay.sum(), dt)
    exact = x.double()
    for found, right in (
        (-decay, torch.logaddexp(exact, torch.zeros_like(exact))),
        (beta, exact.sigmoid()),
        (-gradient, exact.sigmoid()),
    ):
        error = (found.detach().cpu().double() - right).abs() / right
        assert error.max() < 1e-5


@pytest.mark.filterwarnings("ignore:overflow encountered")  # e^10000 is infinite, as it should be
def test_extremes_stay_finite() -> None:
    dt = torch.tensor([[3e37], [-3e37], [1e4], [-1e4], [0.0]], device=DEVICE).requires_grad_()
    parameter = torch.zeros(1, device=DEVICE).requires_grad_()
    u = torch.ones(5, 1, 16, device=DEVICE).requires_grad_()
    outputs = *delta_gates(dt, dt, parameter, parameter), *discretize(u, dt, parameter, parameter)
    assert all(y.isfinite().all() for y in outputs)
    assert outputs[0][1:4, 0].tolist() == [0.0, -1e4, 0.0]
    found = torch.autograd.grad([y[1:].sum() for y in outputs], [dt, u])
    assert all(y.isfinite().all() for y in found)


def test_gradients_of_another_memory_order() -> None:
    torch.manual_seed(0)
    dt, u = torch.randn(9, 3, device=DEVICE), torch.randn(9, 3, 16, device=DEVICE)
    inputs = [u, dt, *torch.randn(2, 3, device=DEVICE)]
    inputs = [x.requires_grad_() for x in inputs]
    d_outs = torch.randn(16, 3, 9, device=DEVICE).transpose(0, 2), torch.randn(3, 9).to(DEVICE).mT
    a, b = (
        torch.autograd.grad(run(*inputs), inputs, d_outs) for run in (discretize, gates.discretize)
    )
    for found, right in zip(a, b, strict=True):
        assert relative_error(found, right) < 1e-5


def test_one_operator_for_torch() -> None:
    dt, beta = (torch.randn(5, 2, device=DEVICE).requires_grad_() for _ in "db")
    bias, A_log = (torch.randn(2, device=DEVICE).requires_grad_() for _ in "bA")
    u = torch.randn(5, 2, 16, device=DEVICE).requires_grad_()
    operator = torch.ops.lmtrain.gates.default
    torch.library.opcheck(operator, (dt, bias, A_log, beta, None, 2.0))
    torch.library.opcheck(operator, (dt, bias, A_log, None, u, 1.0))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"dt": torch.zeros(4, 2).double()}, "dt must be .*float64"),
        ({"dt": torch.zeros(2, 4).mT}, "neighbouring heads"),
        ({"bias": torch.zeros(3)}, r"bias must be \[2\]"),
        ({"A_log": torch.zeros(1)}, r"A_log must be \[2\]"),
        ({"beta": torch.zeros(4, 1)}, r"beta must be \[4, 2\]"),
        ({"u": torch.zeros(4, 16)}, r"u must be \[4, 2, 'p'\]"),
        ({"u": torch.zeros(4, 16, 2).mT}, "neighbouring heads"),
        ({"u": torch.zeros(4, 2, 1025)}, "p <= 1024"),
    ],
)
def test_refuses(changed: dict[str, Any], says: str) -> None:
    arguments: dict[str, Any] = {"dt": torch.zeros(4, 2), "bias": torch.zeros(2)}
    arguments = arguments | {"A_log": torch.zeros(2)} | changed
    run = discretize if "u" in changed else partial(delta_gates, beta=torch.zeros(4, 2))
    with pytest.raises(ValueError, match=says):
        run(**arguments)


@pytest.mark.slow
@each_card
def test_compiles_ahead_of_time(card: int) -> None:
    kernels = compiled("pointwise_cases", "open_gates", card)
    assert len(kernels) == 8
    assert not problems(kernels, tensor_cores=frozenset())
