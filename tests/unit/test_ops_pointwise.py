"""Convolution, norms, rotation, activation and loss equal their naive forms (fp64)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn.functional import silu

from lmtrain.batch import IGNORED
from lmtrain.layout import SequenceLayout
from lmtrain.ops import loss, reference
from lmtrain.ops.activation import relu2, swiglu
from lmtrain.ops.conv import short_conv
from lmtrain.ops.norm import add_norm, gate_then_norm, l2_norm, norm_then_gate, rms_norm
from lmtrain.ops.rotary import angles, frequencies, rotate

if TYPE_CHECKING:
    from collections.abc import Callable

TOLERANCE = 1e-12


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def compare(fast: Callable, naive: Callable, *inputs: torch.Tensor) -> None:
    expected, actual = naive(*inputs), fast(*inputs)
    cotangent = torch.randn_like(expected)
    want = torch.autograd.grad(expected, inputs, cotangent)
    have = torch.autograd.grad(actual, inputs, cotangent)
    for a, b in zip([actual, *have], [expected, *want], strict=True):
        assert (a - b).abs().max() < TOLERANCE


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("taps", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "layout",
    [
        SequenceLayout.of_lengths([1]),
        SequenceLayout.of_lengths([3]),
        SequenceLayout.of_lengths([20]),
        SequenceLayout.of_lengths([7, 7, 7]),
        SequenceLayout.of_lengths([1] * 9),
        SequenceLayout.of_lengths([2, 1, 1, 9, 5, 1]),
        replace(SequenceLayout.of_lengths([10, 30]), start=4, stop=33),
    ],
    ids=lambda layout: "-".join(map(str, layout.lengths)),
)
def test_short_conv(layout: SequenceLayout, taps: int, *, bias: bool) -> None:
    inputs = [draw(len(layout), 3), draw(taps, 3), *([draw(3)] if bias else [])]
    compare(
        lambda x, w, b=None: torch.cat(short_conv(x, w, b, [2, 1], layout=layout), -1),
        lambda x, w, b=None: reference.short_conv(x, w, b, [3], layout=layout)[0],
        *inputs,
    )


def test_rms_norm() -> None:
    compare(lambda x, w: rms_norm(x, w, 1e-3), lambda x, w: reference.rms_norm(x, w, 1e-3),
            draw(5, 2, 7), draw(7))  # fmt: skip


def test_add_norm() -> None:
    compare(
        lambda x, added, w: torch.cat(add_norm(x, added, w, 1e-3)),
        lambda x, added, w: torch.cat(reference.add_norm(x, added, w, 1e-3)),
        *(draw(5, 7), draw(5, 7), draw(7)),
    )
    compare(
        lambda x, w: torch.cat(add_norm(x, None, w, 1e-3)),
        lambda x, w: torch.cat(reference.add_norm(x, None, w, 1e-3)),
        *(draw(5, 7), draw(7)),
    )


def test_norm_then_gate() -> None:
    compare(
        lambda x, gate, w: norm_then_gate(x, gate, w, 1e-3),
        lambda x, gate, w: reference.norm_then_gate(x, gate, w, 1e-3),
        *(draw(7, 3, 6), draw(7, 3, 6), draw(6)),
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_gate_then_norm(groups: int) -> None:
    inputs = [*(draw(7, groups, 12) for _ in range(3)), draw(groups * 12), draw(6)]
    compare(
        lambda x, gate, u, w, d: gate_then_norm(x, gate, w, 1e-3, (u, d)),
        lambda x, gate, u, w, d: reference.gate_then_norm(x, gate, w, 1e-3, (u, d)),
        *inputs,
    )
    compare(
        lambda x, gate, w: gate_then_norm(x, gate, w, 1e-3),
        lambda x, gate, w: reference.gate_then_norm(x, gate, w, 1e-3),
        *(inputs[i] for i in (0, 1, 3)),
    )


def test_l2_norm() -> None:
    compare(l2_norm, lambda x: x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt(), draw(5, 2, 7))


@pytest.mark.parametrize("width", [8, 6, 2])
def test_rotary_restarts_in_each_document(width: int) -> None:
    layout = replace(SequenceLayout.of_lengths([3, 40, 5]), start=2, stop=46)
    x = draw(44, 2, 8)
    actual = rotate(x, *angles(layout, of=frequencies(width, 100.0)))
    expected = reference.rotary(x, layout.position, 100.0, width=width)
    assert (actual - expected).abs().max() < 1e-6  # tables are fp32
    assert torch.equal(actual[1], x[1])  # the first token of a document is not rotated
    assert torch.equal(actual[..., width:], x[..., width:])


def test_activations() -> None:
    def plain(x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, -1)
        return silu(gate) * up

    compare(swiglu, plain, draw(5, 8))
    compare(relu2, lambda x: x.clamp(min=0) ** 2, draw(5, 8))


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("slice_elements", [1, 40, 1 << 22])
def test_linear_cross_entropy(
    z_loss: float, slice_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "SLICE_ELEMENTS", slice_elements)
    targets = torch.randint(11, (23,))
    targets[[0, 7, 22]] = IGNORED
    compare(
        lambda x, w: loss.linear_cross_entropy(x, w, targets, z_loss).total,
        lambda x, w: reference.linear_cross_entropy(x, w, targets, z_loss)[0],
        draw(23, 6),
        draw(11, 6),
    )
    x, w = draw(23, 6), draw(11, 6)
    nll = loss.linear_cross_entropy(x, w, targets, z_loss).nll
    assert (nll - reference.linear_cross_entropy(x, w, targets)[1]).abs().max() < TOLERANCE
    assert not nll.requires_grad


def test_loss_of_ignored_targets_alone_is_zero() -> None:
    x, w = draw(4, 6), draw(11, 6)
    total = loss.linear_cross_entropy(x, w, torch.full((4,), IGNORED), 1e-2).total
    total.backward()
    assert total == 0
    assert x.grad is not None
    assert not x.grad.any()
    assert w.grad is not None
    assert not w.grad.any()
