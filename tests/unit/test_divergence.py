"""The divergence from a teacher equals its naive form (fp64), a slice at a time."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lmtrain.batch import IGNORED
from lmtrain.ops import divergence, reference
from lmtrain.ops.divergence import Output, linear_divergence

TOLERANCE = 1e-12


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def naive(
    x: torch.Tensor, w: torch.Tensor, teacher: Output, targets: torch.Tensor, temperature: float
) -> torch.Tensor:
    """The definition: the sum of p (log p - log q) over the vocabulary."""
    p = (teacher.hidden @ teacher.weight.T / temperature).softmax(-1)
    q = (x @ w.T / temperature).softmax(-1)
    each = (p * (p.log() - q.log())).sum(-1)
    return temperature**2 * each[targets != IGNORED].sum()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("slice_elements", [1, 14 * 4, 1 << 20])
def test_it_is_the_divergence(
    temperature: float, slice_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "SLICE_ELEMENTS", slice_elements)
    torch.manual_seed(0)
    x, w, tx, tw = draw(11, 5), draw(7, 5), draw(11, 3), draw(7, 3)  # a teacher of another width
    targets = torch.tensor([0, 6, IGNORED, 3, 3, IGNORED, 1, 2, 5, 4, IGNORED])
    teacher = Output(tx, tw)
    found = linear_divergence(Output(x, w), teacher, targets, temperature)
    expected = naive(x, w, Output(tx.detach(), tw.detach()), targets, temperature)
    weight = torch.tensor(1.7, dtype=torch.float64)
    have = torch.autograd.grad(found.total * weight, (x, w))
    want = torch.autograd.grad(expected * weight, (x, w))
    for a, b in zip((found.total, *have), (expected, *want), strict=True):
        assert (a - b).abs().max() < TOLERANCE
    assert tx.grad is None
    assert (found.kl.sum() - expected).abs() < TOLERANCE
    assert (found.kl >= 0).all()
    assert (found.nll - reference.linear_cross_entropy(x, w, targets)[1]).abs().max() < TOLERANCE


def test_a_student_like_its_teacher_has_nothing_to_learn() -> None:
    torch.manual_seed(0)
    x, w = draw(9, 4), draw(6, 4)
    found = linear_divergence(Output(x, w), Output(x, w), torch.arange(9) % 6)
    assert found.total.abs() < TOLERANCE
    assert all(g.abs().max() < TOLERANCE for g in torch.autograd.grad(found.total, (x, w)))


def test_it_holds_few_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor is as large as the logits of all tokens."""
    monkeypatch.setattr(divergence, "SLICE_ELEMENTS", 2 * 50 * 4)
    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in (out,) if isinstance(x, torch.Tensor))
            return out

    x, w = torch.randn(64, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    teacher = Output(torch.randn(64, 8), torch.randn(50, 8))
    with Watch():
        linear_divergence(Output(x, w), teacher, torch.arange(64) % 50).total.backward()
    assert max(sizes) < 64 * 50 / 4
