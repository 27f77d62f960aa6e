"""The stream with what is added to it, and its norm: against both one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from ahead_of_time import compiled, problems
from cards import DEVICE, each_card
from delta_inputs import relative_error

from lmtrain.ops import reference
from lmtrain_kernels.add_norm import add_norm
from lmtrain_kernels.gated_norm import rms_norm

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2}
EPS = 1e-5


def slice_of_wider(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Rows far apart, and NaN between them."""
    wide = torch.full((shape[0], shape[1] + 24), torch.nan, dtype=dtype, device=DEVICE)
    wide[:, 16:-8] = torch.randn(shape)
    return wide[:, 16:-8].requires_grad_()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("shape", [(1, 7), (70, 48), (300, 64), (9, 1100), (2, 16384)])
def test_equals_the_naive_form(shape: tuple[int, int], *, adds: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, added = slice_of_wider(shape, dtype), slice_of_wider(shape, dtype) if adds else None
    weight = (1 + torch.randn(shape[1]) / 4).to(DEVICE).requires_grad_()
    given = [y for y in (x, added, weight) if y is not None]
    exact = [y.detach().cpu().double().requires_grad_() for y in given]
    expected = reference.add_norm(exact[0], exact[1] if adds else None, exact[-1], EPS)
    actual = add_norm(x, added, weight, EPS)
    d_stream = torch.randn(shape[::-1]).to(dtype).t()  # of another memory order
    d_normed = torch.randn(shape).to(dtype)
    want = torch.autograd.grad(expected, exact, [d_stream.double(), d_normed.double()])
    have = torch.autograd.grad(actual, given, [d_stream.to(DEVICE), d_normed.to(DEVICE)])
    for a, b in zip((*actual, *have), (*expected, *want), strict=True):
        assert relative_error(a, b) < TOLERANCE[dtype]
    assert {y.dtype for y in actual} == {dtype}
    assert [y.dtype for y in have] == [y.dtype for y in given]


@pytest.mark.parametrize("adds", [True, False])
def test_changes_no_bit_of_one_after_the_other(*, adds: bool) -> None:
    """So recomputation under a mode, which wants operators, gives what was computed before."""
    torch.manual_seed(0)
    shape = 37, 96
    x, added = (torch.randn(shape, device=DEVICE).requires_grad_() for _ in "xa")
    weight = torch.randn(96, device=DEVICE).requires_grad_()
    together = add_norm(x, added if adds else None, weight, EPS)
    stream = x + added if adds else x
    apart = stream, rms_norm(stream, weight, EPS)
    assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))
    inputs, d_outs = [x, *([added] if adds else []), weight], [torch.randn_like(x) for _ in "sn"]
    found = (torch.autograd.grad(outs, inputs, d_outs) for outs in (together, apart))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_nobody_asks_of_has_no_gradient() -> None:
    """The last stream of a model, or one whose norm is not used."""
    x, added, weight = (torch.randn(5, 16, device=DEVICE).requires_grad_() for _ in "xaw")
    stream, normed = add_norm(x, added, weight[0], EPS)
    ones = torch.ones_like(x)
    torch.testing.assert_close(
        torch.autograd.grad(stream.sum(), [x, added], retain_graph=True), (ones, ones)
    )
    want = torch.autograd.grad(rms_norm(x + added, weight[0], EPS).sum(), x)
    torch.testing.assert_close(torch.autograd.grad(normed.sum(), x), want)


def test_refuses() -> None:
    x, weight = torch.zeros(3, 16, device=DEVICE), torch.zeros(16, device=DEVICE)
    for says, x_, added, weight_ in (
        ("want x .t, d. and weight .d.", x[:, None], None, weight),
        ("want x .t, d. and weight .d.", x, None, weight[:8]),
        ("make them alike", x, x[:2], weight),
        ("make them alike", x, x.half(), weight),
        ("contiguous in its last dimension", x.t().contiguous().t(), x, weight),
    ):
        with pytest.raises(ValueError, match=says):
            add_norm(x_, added, weight_, EPS)


@pytest.mark.slow
@each_card
def test_compiles_ahead_of_time(card: int) -> None:
    kernels = compiled("pointwise_cases", "add_and_normalize", card)
    assert len(kernels) == (2 * 5 + 1) * 3
    assert not problems(kernels, tensor_cores=frozenset())
