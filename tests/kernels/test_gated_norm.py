"""The norm and its gates on Triton against their naive form: outputs and every gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from ahead_of_time import compiled, problems
from cards import DEVICE, each_card, each_case
from delta_inputs import relative_error
from torch import Tensor

from lmtrain.ops import reference
from lmtrain_kernels.gated_norm import gated_norm, rms_norm

if TYPE_CHECKING:
    from collections.abc import Callable

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
EPS = 1e-5


class Case(NamedTuple):
    shape: tuple[int, int, int]
    norm_before_gate: bool = True
    weight_a_head: bool = False
    skips: int = 0
    """Scales of the skip."""


CASES = {
    "one token": Case((1, 1, 16)),
    "a weight for all heads": Case((70, 3, 64)),
    "heads of odd width": Case((37, 2, 48)),
    "narrow heads": Case((20, 5, 7)),
    "wide heads": Case((11, 2, 256)),
    "many rows, several programs": Case((300, 4, 128)),
    "gate first": Case((33, 3, 64), norm_before_gate=False),
    "gate first, a weight a group": Case((33, 3, 64), norm_before_gate=False, weight_a_head=True),
    "full width": Case((19, 1, 1024), norm_before_gate=False),
    "full odd width, in parts": Case((9, 1, 2500), norm_before_gate=False),
    "norm first, in parts": Case((9, 2, 1100)),
    "widest": Case((2, 1, 16384), norm_before_gate=False),
    "skip": Case((33, 1, 96), norm_before_gate=False, skips=6),
    "skip, groups": Case((70, 4, 64), norm_before_gate=False, weight_a_head=True, skips=8),
    "skip across groups": Case((20, 4, 16), norm_before_gate=False, weight_a_head=True, skips=2),
    "skip, norm first": Case((21, 2, 32), skips=2),
    "skip, in parts": Case((7, 1, 1280), norm_before_gate=False, skips=20),
}
LARGEST = ("many rows, several programs", torch.bfloat16)


def naive(case: Case, x: Tensor, gate: Tensor, weight: Tensor, *skip: Tensor) -> Tensor:
    if skip:
        u, scale = skip
        parts = u.flatten(1).unflatten(1, (len(scale), -1)) * scale[:, None]
        x = x + parts.view(x.shape)
    if not case.norm_before_gate:
        weight = weight.expand(x.shape[1], -1) if weight.numel() == x.shape[2] else weight
        return reference.gate_then_norm(x, gate, weight.reshape(-1), EPS)
    weight = weight.view(-1, x.shape[2])
    return reference.norm_then_gate(x, gate, weight, EPS)


def slice_of_wider(x: Tensor, dtype: torch.dtype) -> Tensor:
    """As a split of a projection: rows far apart, and NaN between them."""
    rows = x.detach().flatten(1).to(DEVICE, dtype)
    wide = torch.full((len(x), rows.shape[1] + 24), torch.nan, dtype=dtype, device=DEVICE)
    wide[:, 16:-8] = rows
    return wide[:, 16:-8].unflatten(1, x.shape[1:]).requires_grad_()


@each_case(CASES, TOLERANCE, long=LARGEST)
def test_equals_the_naive_form(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    _, h, d = case.shape
    shapes: list[tuple[int, ...]] = [case.shape, case.shape, (h * d if case.weight_a_head else d,)]
    if case.skips:
        shapes += [case.shape, (case.skips,)]
    leaves = [torch.randn(s).bfloat16().double().requires_grad_() for s in shapes]
    expected = naive(case, *leaves)
    d_out = torch.randn(case.shape).bfloat16().double()
    gradients = torch.autograd.grad(expected, leaves, d_out)

    inputs = [
        slice_of_wider(x, dtype) if x.ndim == 3 else x.detach().float().to(DEVICE).requires_grad_()
        for x in leaves
    ]
    x, gate, weight, *skip = inputs
    actual = gated_norm(
        *(x, gate, weight, EPS),
        norm_before_gate=case.norm_before_gate,
        skip=(skip[0], skip[1]) if skip else None,
    )
    found = torch.autograd.grad(actual, inputs, d_out.to(DEVICE, dtype))
    for a, b in zip((actual, *found), (expected, *gradients), strict=True):
        assert relative_error(a, b) < TOLERANCE[dtype]
    assert [y.dtype for y in (actual, *found)] == [dtype, *(y.dtype for y in inputs)]


PLAIN = {
    "two numbers": (3, 2),
    "a stream": (70, 48),
    "a stream, in parts": (9, 1300),
    "many rows": (300, 128),
    "heads": (37, 3, 64),
    "heads of odd width": (20, 2, 40),
}


@each_case(PLAIN, TOLERANCE, long=("many rows", torch.bfloat16))
def test_alone_it_equals_the_naive_form(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    shape = PLAIN[name]
    row, scale = (torch.randn(s).bfloat16().double().requires_grad_() for s in (shape, shape[-1:]))
    d_out = torch.randn(shape).bfloat16().double()
    expected = reference.rms_norm(row, scale, EPS)
    gradients = torch.autograd.grad(expected, (row, scale), d_out)

    x = slice_of_wider(row if row.ndim == 3 else row[:, None], dtype)
    weight = scale.detach().float().to(DEVICE).requires_grad_()
    actual = rms_norm(x if row.ndim == 3 else x[:, 0], weight, EPS)
    found = torch.autograd.grad(actual, (x, weight), d_out.to(DEVICE, dtype))
    for a, b in zip((actual, *found), (expected, *gradients), strict=True):
        assert relative_error(a.view(b.shape), b) < TOLERANCE[dtype]
    assert [y.dtype for y in (actual, *found)] == [dtype, dtype, torch.float32]


def test_gradient_of_another_memory_order() -> None:
    x, gate = (torch.randn(9, 2, 16, device=DEVICE).requires_grad_() for _ in range(2))
    weight = torch.ones(16, device=DEVICE)
    d_out = torch.randn(16, 2, 9, device=DEVICE).transpose(0, 2)
    y = gated_norm(x, gate, weight, EPS, norm_before_gate=True)
    expected = reference.norm_then_gate(x, gate, weight, EPS)
    a = torch.autograd.grad(y, (x, gate), d_out)
    b = torch.autograd.grad(expected, (x, gate), d_out)
    assert all(relative_error(p, q) < 1e-4 for p, q in zip(a, b, strict=True))


def test_heads_may_lie_further_apart_than_32_bits_address() -> None:
    """As those of a million tokens whose memory has heads first; what lies between is not there."""
    apart, heads = 1 << 30, torch.randn(2, 3, 16).to(DEVICE, torch.bfloat16)
    room = torch.UntypedStorage(heads.itemsize * (2 * apart + 32), device=DEVICE)
    far = heads.new_empty(0).set_(room, 0, heads.shape, (16, apart, 1))
    far.copy_(heads)
    weight = torch.ones(16, device=DEVICE)
    assert torch.equal(rms_norm(far, weight, EPS), rms_norm(heads, weight, EPS))


def test_zero_rows_give_zeros_and_finite_gradients() -> None:
    x, gate = (torch.zeros(3, 2, 16, device=DEVICE).requires_grad_() for _ in range(2))
    weight = torch.ones(16, device=DEVICE)
    for norm_before_gate in (True, False):
        y = gated_norm(x, gate, weight, EPS, norm_before_gate=norm_before_gate)
        gradients = torch.autograd.grad(y.sum(), (x, gate))
        assert not y.any()
        assert all(g.isfinite().all() for g in gradients)


def draw_skip() -> tuple[list[Tensor], list[Tensor]]:
    shapes = [(5, 2, 16), (5, 2, 16), (32,), (5, 2, 16), (4,)]
    inputs = [torch.randn(s, device=DEVICE).requires_grad_() for s in shapes]
    return inputs[:3], inputs[3:]


def test_one_operator_for_torch() -> None:
    inputs, skip = draw_skip()
    operator = torch.ops.lmtrain.gated_norm.default
    torch.library.opcheck(operator, (*inputs, *skip, EPS, False))
    torch.library.opcheck(operator, (*inputs, None, None, EPS, True))
    x, _, weight = inputs
    torch.library.opcheck(operator, (x, None, weight, None, None, EPS, True))


def test_compiles_into_one_graph() -> None:
    inputs, skip = draw_skip()

    def call(x: Tensor, gate: Tensor, weight: Tensor, u: Tensor, scale: Tensor) -> Tensor:
        first = gated_norm(x, gate, weight, EPS, norm_before_gate=False, skip=(u, scale))
        return gated_norm(first, gate, weight[:16], EPS, norm_before_gate=True)

    calls: list[Callable[..., Tensor]] = [call]
    calls.append(torch.compile(call, fullgraph=True, backend="aot_eager"))
    results: list[tuple[Tensor, ...]] = []
    for f in calls:
        y = f(*inputs, *skip)
        results.append((y, *torch.autograd.grad(y.square().sum(), [*inputs, *skip])))
    for a, b in zip(*results, strict=True):
        assert a.equal(b)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"x": torch.zeros(5, 16)}, r"\[t, h, d\]"),
        ({"x": torch.zeros(1, 1, 16385)}, "16384"),
        ({"gate": torch.zeros(5, 2, 16).double()}, "gate must be .* got torch.float64"),
        ({"gate": torch.zeros(5, 16, 2).mT}, "contiguous in its last"),
        ({"weight": torch.zeros(8)}, r"weight must be \[16\] or \[32\]"),
        ({"skip": (torch.zeros(5, 2, 8), torch.zeros(2))}, "skip must be"),
        ({"skip": (torch.zeros(5, 2, 16), torch.zeros(3))}, "divisor of 32"),
    ],
)
def test_refuses(changed: dict[str, Any], says: str) -> None:
    arguments: dict[str, Any] = {
        "x": torch.zeros(5, 2, 16),
        "gate": torch.zeros(5, 2, 16),
        "weight": torch.zeros(16),
    }
    with pytest.raises(ValueError, match=says):
        gated_norm(**(arguments | changed), eps=EPS, norm_before_gate=True)


def test_a_norm_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"\[t, h, d\]"):
        rms_norm(torch.zeros(16), torch.zeros(16), EPS)
    with pytest.raises(ValueError, match=r"weight must be \[16\]"):
        rms_norm(torch.zeros(3, 16), torch.zeros(3), EPS)


def test_refuses_a_skip_of_the_widest_rows() -> None:
    x = torch.zeros(1, 1, 16384)
    with pytest.raises(ValueError, match="at most 8192"):
        gated_norm(x, x, x[0, 0], EPS, norm_before_gate=False, skip=(x, torch.zeros(4)))


@pytest.mark.slow
@each_card
def test_compiles_ahead_of_time(card: int) -> None:
    kernels = compiled("pointwise_cases", "normalize", card)
    assert len(kernels) == 26
    assert not problems(kernels, tensor_cores=frozenset())
