"""Fused attention equals the naive masked form, outputs and gradients (fp64)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmtrain.layout import SequenceLayout
from lmtrain.ops import reference
from lmtrain.ops.attention import attend

TOLERANCE = 1e-12
LAYOUTS = {
    "one token": SequenceLayout.of_lengths([1]),
    "odd": SequenceLayout.of_lengths([63]),
    "long": SequenceLayout.of_lengths([300]),
    "equal": SequenceLayout.of_lengths([50, 50, 50]),
    "single tokens": SequenceLayout.of_lengths([1] * 5),
    "mixed": SequenceLayout.of_lengths([1, 63, 1, 100, 2, 63, 17]),
    "inner span": replace(SequenceLayout.of_lengths([30, 200, 20]), start=50, stop=240),
}
WINDOWS = [None, 1, 2, 16, 17, 63, 64, 1000]


def draw(tokens: int, heads: int) -> torch.Tensor:
    return torch.randn(tokens, heads, 6, dtype=torch.float64, requires_grad=True)


def compare(q, k, v, layout, keys=None, window=None) -> None:
    expected = reference.attend(q, k, v, layout=layout, keys=keys, window=window)
    actual = attend(q, k, v, layout=layout, keys=keys, window=window)
    cotangent = torch.randn_like(expected)
    want = torch.autograd.grad(expected, [q, k, v], cotangent)
    have = torch.autograd.grad(actual, [q, k, v], cotangent)
    for a, b in zip([actual, *have], [expected, *want], strict=True):
        assert (a - b).abs().max() < TOLERANCE


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_attend_equals_reference(layout: SequenceLayout, window: int | None) -> None:
    tokens = len(layout)
    compare(draw(tokens, 4), draw(tokens, 2), draw(tokens, 2), layout, window=window)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_keys_before_the_span(tokens: int, window: int | None) -> None:
    """A cache or a halo: the keys begin earlier than the queries."""
    layout = SequenceLayout((0, 90), 90 - tokens, 90)
    keys = layout.widened(50)
    s = len(keys)
    compare(draw(tokens, 4), draw(s, 2), draw(s, 2), layout, keys=keys, window=window)


@pytest.mark.parametrize("window", [None, 1, 7, 16, 40, 1000])
@pytest.mark.parametrize("lengths", [(90,), (20, 27, 43), (30, 1, 1, 28, 30), (41, 49)])
def test_keys_before_a_span_of_several_documents(
    lengths: tuple[int, ...], window: int | None
) -> None:
    """A halo: what the first document of the span has before it, or anything longer."""
    row = SequenceLayout.of_lengths(lengths)
    layout = replace(row, start=40, stop=75)
    for before in {layout.lookback(window or len(row)), 40}:
        keys = layout.widened(before)
        s = len(keys)
        compare(draw(35, 4), draw(s, 2), draw(s, 2), layout, keys=keys, window=window)


def test_documents_do_not_see_each_other() -> None:
    layout = SequenceLayout.of_lengths([30, 41, 30])
    q, k, v = (draw(101, 2) for _ in range(3))
    before = attend(q, k, v, layout=layout, window=20)
    with torch.no_grad():
        for x in (q, k, v):
            x[29] += 1
    after = attend(q, k, v, layout=layout, window=20)
    assert torch.equal(before[30:], after[30:])
    assert torch.equal(before[:29], after[:29])
    assert not torch.equal(before[29], after[29])
