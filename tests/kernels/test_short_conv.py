"""The short convolution on Triton against its naive form: outputs and every gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from ahead_of_time import compiled, problems
from cards import DEVICE, each_card, each_case
from delta_inputs import relative_error
from torch import Tensor
from torch.nn.functional import silu

from lmtrain.layout import SequenceLayout
from lmtrain.ops import reference
from lmtrain_kernels.short_conv import short_conv, short_conv_step

if TYPE_CHECKING:
    from collections.abc import Callable

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}


class Case(NamedTuple):
    lengths: tuple[int, ...]
    channels: int = 24
    taps: int = 4
    bias: bool = True
    before: int = 0
    """Tokens of the first document before the span."""
    widths: tuple[int, ...] | None = None
    """Of outputs; None for one of all channels."""


CASES = {
    "one token": Case((1,)),
    "one document, several programs": Case((300,), channels=136),
    "documents shorter than the taps": Case((1, 2, 3, 1, 1, 60, 4, 2)),
    "only short documents": Case((1,) * 9, channels=7),
    "a document that began before": Case((30, 40, 5), before=37),
    "one that began a token before": Case((5, 3), before=1),
    "two taps, no bias": Case((50, 20), taps=2, bias=False),
    "one tap": Case((20, 3), taps=1),
    "most taps": Case((1, 70, 5, 9), taps=8),
    "a document ends where a walk ends": Case((63, 1, 1, 63, 128, 3), channels=16),
    "two outputs": Case((40, 9), channels=24, widths=(8, 16)),
    "three outputs, several blocks": Case((33, 1, 7), channels=320, widths=(136, 16, 168)),
    "outputs of odd widths": Case((5, 20), channels=140, widths=(3, 130, 7), before=2),
}
LARGEST = ("one document, several programs", torch.bfloat16)


class Inputs(NamedTuple):
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    layout: SequenceLayout


def draw(case: Case) -> Inputs:
    """Numbers that bf16 holds exactly, in fp64 on the host; ``x`` is a slice of something wider."""
    row = SequenceLayout.of_lengths((case.lengths[0] + case.before, *case.lengths[1:]))
    layout = SequenceLayout(row.bounds, case.before, row.bounds[-1])
    x, weight, bias = (
        torch.randn(shape).bfloat16().double().requires_grad_()
        for shape in [(len(layout), case.channels), (case.taps, case.channels), (case.channels,)]
    )
    return Inputs(x, weight, bias if case.bias else None, layout)


def position(layout: SequenceLayout) -> Tensor:
    return layout.position.to(DEVICE, torch.int32)


def on_card(x: Tensor) -> Tensor:
    return x.detach().to(DEVICE, torch.float32).requires_grad_()


def slice_of_wider(x: Tensor, dtype: torch.dtype) -> Tensor:
    wide = torch.full((len(x), x.shape[1] + 16), torch.nan, dtype=dtype, device=DEVICE)
    wide[:, 8:-8] = x.detach().to(DEVICE, dtype)
    return wide[:, 8:-8].requires_grad_()


@each_case(CASES, TOLERANCE, long=LARGEST)
def test_equals_the_naive_form(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    host = draw(case)
    widths = case.widths or (case.channels,)
    expected = reference.short_conv(host.x, host.weight, host.bias, widths, layout=host.layout)
    d_outs = [torch.randn(y.shape).bfloat16().double() for y in expected]
    leaves = [x for x in host[:3] if x is not None]
    gradients = torch.autograd.grad(expected, leaves, d_outs)

    x, weight = slice_of_wider(host.x, dtype), on_card(host.weight)
    bias = None if host.bias is None else on_card(host.bias)
    actual = short_conv(x, weight, bias, position(host.layout), widths=case.widths)
    inputs = [y for y in (x, weight, bias) if y is not None]
    found = torch.autograd.grad(actual, inputs, [d.to(DEVICE, dtype) for d in d_outs])
    for a, b in zip((*actual, *found), (*expected, *gradients), strict=True):
        assert relative_error(a, b) < TOLERANCE[dtype]
    assert [x.dtype for x in found] == [x.dtype for x in inputs]
    assert all(y.dtype == dtype and y.is_contiguous() for y in actual)


def test_without_silu_and_positions() -> None:
    x, weight = torch.randn(40, 8, device=DEVICE), torch.randn(3, 8, device=DEVICE)
    d_out = torch.randn(8, 40, device=DEVICE).mT  # neighbouring tokens, not channels
    inputs = x.requires_grad_(), weight.requires_grad_()
    (actual,) = short_conv(x, weight, silu=False)
    padded = torch.cat([x.new_zeros(2, 8), x])
    expected = torch.stack([padded[i : i + 40] * weight[i] for i in range(3)]).sum(0)
    assert relative_error(actual, expected) < 1e-4
    found = torch.autograd.grad(actual, inputs, d_out)
    for a, b in zip(found, torch.autograd.grad(expected, inputs, d_out), strict=True):
        assert relative_error(a, b) < 1e-4


def test_a_document_is_the_same_among_others() -> None:
    layout = SequenceLayout.of_lengths([37, 50, 2])
    x, weight = torch.randn(89, 16, device=DEVICE), torch.randn(4, 16, device=DEVICE)
    (packed,) = short_conv(x, weight, position=position(layout))
    (alone,) = short_conv(x[37:87], weight)
    assert packed[37:87].equal(alone)


@pytest.mark.filterwarnings("ignore:overflow encountered")  # e^300 is infinite, as it should be
def test_large_inputs_stay_finite() -> None:
    x = torch.tensor([[1e30], [-1e30], [-300.0], [300.0]], device=DEVICE).requires_grad_()
    weight = torch.ones(1, 1, device=DEVICE)
    (y,) = short_conv(x, weight)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(y, silu(x))
    torch.testing.assert_close(x.grad, torch.tensor([[1.0], [0], [0], [1]], device=DEVICE))


@pytest.mark.parametrize("taps", [1, 2, 4])
def test_token_by_token(taps: int) -> None:
    x, weight, bias = (torch.randn(s, device=DEVICE) for s in [(2, 9, 24), (taps, 24), (24,)])
    tail = x.new_zeros(2, taps - 1, 24)
    for t in range(9):
        y, tail = short_conv_step(tail, x[:, t], weight, bias)
        for document in range(2):
            (whole,) = short_conv(x[document, : t + 1], weight, bias)
            torch.testing.assert_close(y[document], whole[-1])


def test_one_operator_for_torch() -> None:
    layout = SequenceLayout.of_lengths([9, 4])
    x, weight, bias = (torch.randn(s, device=DEVICE) for s in [(13, 8), (4, 8), (8,)])
    inputs = [y.requires_grad_() for y in (x, weight, bias)]
    operator = torch.ops.lmtrain.short_conv.default
    torch.library.opcheck(operator, (*inputs, position(layout), 2, 5, 1, True))
    torch.library.opcheck(operator, (*inputs[:2], None, None, 8, 0, 0, False))


def test_compiles_into_one_graph() -> None:
    layout = SequenceLayout.of_lengths([9, 4])
    inputs = [torch.randn(s, device=DEVICE).requires_grad_() for s in [(13, 8), (4, 8), (8,)]]
    calls: list[Callable[..., tuple[Tensor, ...]]] = [short_conv]
    calls.append(torch.compile(short_conv, fullgraph=True, backend="aot_eager"))
    results: list[tuple[Tensor, ...]] = []
    for call in calls:
        a, b = call(*inputs, position(layout), widths=(3, 5))
        loss = a.square().sum() + b.sum()
        results.append((a, b, *torch.autograd.grad(loss, inputs)))
    for a, b in zip(*results, strict=True):
        assert a.equal(b)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"x": torch.zeros(5, 8, dtype=torch.float64)}, "float64"),
        ({"x": torch.zeros(8, 5).mT}, "contiguous"),
        ({"weight": torch.zeros(9, 8)}, "at most 8 taps"),
        ({"weight": torch.zeros(4, 7)}, "weight must be"),
        ({"bias": torch.zeros(7)}, "bias must be"),
        ({"position": torch.arange(5)}, "int32"),
        ({"position": torch.arange(4, dtype=torch.int32)}, "one number a token"),
        ({"widths": [4, 3]}, "whose sum is 8"),
        ({"widths": [2, 2, 2, 2]}, "up to 3"),
        ({"widths": [8, 0]}, "up to 3"),
    ],
)
def test_refuses(changed: dict[str, Any], says: str) -> None:
    arguments: dict[str, Any] = {"x": torch.zeros(5, 8), "weight": torch.zeros(4, 8)} | changed
    with pytest.raises(ValueError, match=says):
        short_conv(**arguments)


def test_refuses_a_tail_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"tail must be contiguous .* \[2, 3, 8\]"):
        short_conv_step(torch.zeros(2, 4, 8), torch.zeros(2, 8), torch.zeros(4, 8))


@pytest.mark.slow
@each_card
def test_compiles_ahead_of_time(card: int) -> None:
    kernels = compiled("pointwise_cases", "convolve", card)
    assert len(kernels) == 15
    assert not problems(kernels, tensor_cores=frozenset())
