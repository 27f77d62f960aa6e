"""Chunked recurrences equal the naive token-by-token form, outputs and every gradient (fp64)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lmtrain.layout import SequenceLayout
from lmtrain.ops import reference
from lmtrain.ops.gated_delta import GatedDelta, inverse
from lmtrain.ops.recurrence import AffineState, act, coact
from lmtrain.ops.ssd import ScalarDecay

TOLERANCE = 1e-10
LAYOUTS = {
    "one token": SequenceLayout.of_lengths([1]),
    "one short document": SequenceLayout.of_lengths([5]),
    "63": SequenceLayout.of_lengths([63]),
    "64": SequenceLayout.of_lengths([64]),
    "65": SequenceLayout.of_lengths([65]),
    "long": SequenceLayout.of_lengths([257]),
    "equal documents": SequenceLayout.of_lengths([40, 40, 40]),
    "equal long documents": SequenceLayout.of_lengths([130, 130]),
    "single tokens": SequenceLayout.of_lengths([1] * 7),
    "mixed": SequenceLayout.of_lengths([1, 63, 1, 70, 2, 128, 1]),
    "opening on a chunk": SequenceLayout.of_lengths([64, 10, 54, 64, 3]),
    "inner span": replace(SequenceLayout.of_lengths([30, 200, 20]), start=50, stop=240),
    "inside one document": replace(SequenceLayout.of_lengths([300]), start=100, stop=229),
    "opens with a document": replace(SequenceLayout.of_lengths([30, 200]), start=30, stop=130),
}


def inputs(rule: str, tokens: int, regime: str) -> list[torch.Tensor]:
    """Keys of norm one; decays near zero so that the past matters at any distance."""
    generator = torch.Generator().manual_seed(tokens)
    groups, heads, key, value = 2, 4, 6, 5

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k, v = draw(tokens, groups, key), draw(tokens, groups, key), draw(tokens, heads, value)
    if regime == "low rank":
        k = draw(1, groups, key) + 0.05 * k
    k = F.normalize(k, dim=-1)
    decay = -draw(tokens, heads).abs() * {"fast": 3.0, "low rank": 1e-3}.get(regime, 0.01)
    if rule == "ssd":
        return [q, k, v, decay]
    beta = 2.0 * draw(tokens, heads).mul(6 if regime == "low rank" else 1).sigmoid()
    return [q, k, v, decay, beta]


RULES = {
    "ssd": (ScalarDecay(), reference.ssd),
    "gated_delta": (GatedDelta(), reference.gated_delta),
}


def close(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-2)).item()


@pytest.mark.parametrize("regime", ["slow", "fast", "low rank"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("name", RULES)
def test_scan_equals_reference(name: str, layout: SequenceLayout, regime: str) -> None:
    rule, naive = RULES[name]
    given = [x.requires_grad_() for x in inputs(name, len(layout), regime)]
    initial = torch.randn(4, 6, 5, dtype=torch.float64, requires_grad=True)
    expected = naive(*given, layout=layout, initial=initial)
    actual = rule.scan(tuple(given), layout, initial)
    cotangents = [torch.randn_like(x) for x in expected]
    want = torch.autograd.grad(expected, [*given, initial], cotangents, allow_unused=True)
    have = torch.autograd.grad(actual, [*given, initial], cotangents, allow_unused=True)
    for a, b in zip(actual, expected, strict=True):
        assert close(a, b) < TOLERANCE
    for a, b in zip(have, want, strict=True):
        assert a is not None
        assert close(a, torch.zeros_like(a) if b is None else b) < TOLERANCE


@pytest.mark.parametrize("name", RULES)
def test_step_equals_scan(name: str) -> None:
    rule, _ = RULES[name]
    given = inputs(name, 70, "slow")
    layout = SequenceLayout.of_lengths([70])
    outputs, final = rule.scan(tuple(given), layout)
    state = torch.zeros_like(final)
    for t in range(70):
        out, state = rule.step(tuple(x[t] for x in given), state)
        assert close(out, outputs[t]) < TOLERANCE
    assert close(state, final) < TOLERANCE


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("name", RULES)
def test_summary_is_what_the_span_does_to_a_state(name: str, layout: SequenceLayout) -> None:
    rule, _ = RULES[name]
    given = tuple(inputs(name, len(layout), "slow"))
    initial = torch.randn(4, 6, 5, dtype=torch.float64)
    entering = initial if layout.continues else torch.zeros_like(initial)
    acted = rule.summarize(given, layout).act(entering)
    assert close(acted, rule.scan(given, layout, initial)[1]) < TOLERANCE


@pytest.mark.parametrize("name", RULES)
def test_summaries_compose(name: str) -> None:
    rule, _ = RULES[name]
    row = SequenceLayout.of_lengths([90])
    given = inputs(name, 90, "slow")
    if name == "gated_delta":
        given[4] = given[4] * 0.05
    parts = [replace(row, start=a, stop=b) for a, b in ((10, 30), (30, 71), (71, 90))]
    first, second, third = (
        rule.summarize(tuple(x[p.start : p.stop] for x in given), p) for p in parts
    )
    whole = rule.summarize(tuple(x[10:] for x in given), replace(row, start=10))
    for composed in (first.then(second).then(third), first.then(second.then(third))):
        for a, b in zip(composed, whole, strict=True):
            assert close(a, b) < TOLERANCE
    assert whole.transition.abs().max() > 0.1  # a vanished transition would prove nothing


def test_inverse_stays_exact_where_a_power_series_would_not() -> None:
    A = torch.full((3, 64, 64), 2.0).tril(-1)  # identical keys, beta = 2
    expected = torch.linalg.inv(torch.eye(64, dtype=torch.float64) + A.double())
    assert (inverse(A) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", RULES)
def test_documents_do_not_see_each_other(name: str) -> None:
    rule, _ = RULES[name]
    layout = SequenceLayout.of_lengths([37, 60, 31])
    given = inputs(name, 128, "slow")
    before = rule.scan(tuple(given), layout)[0]
    changed = [x.clone() for x in given]
    for x in changed:
        x[36] += 0.7
    after = rule.scan(tuple(changed), layout)[0]
    assert torch.equal(before[37:], after[37:])
    assert torch.equal(before[:36], after[:36])
    assert not torch.equal(before[36], after[36])


@pytest.mark.parametrize("shape", [(4,), (4, 6, 6)])
def test_an_affine_state_has_an_identity_and_an_adjoint(shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    transition, state, x, y = (
        torch.randn(*s, generator=draw, dtype=torch.float64)
        for s in (shape, (4, 6, 5), (4, 6, 5), (4, 6, 5))
    )
    one = torch.ones(4) if len(shape) == 1 else torch.eye(6).expand(4, 6, 6)
    identity = AffineState(one.double(), torch.zeros_like(state))
    span = AffineState(transition, state)
    assert torch.equal(identity.then(span).act(x), span.act(x))
    assert torch.equal(span.then(identity).act(x), span.act(x))
    assert close((act(transition, x) * y).sum(), (x * coact(transition, y)).sum()) < TOLERANCE
