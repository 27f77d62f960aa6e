"""Every kernel as machine code, against its naive form in fp64: cases of its own tests, in bf16."""

from __future__ import annotations

import os
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import test_add_norm
import test_delta_forward
import test_gated_delta
import test_gated_norm
import test_gates
import test_l2_norm
import test_rotary
import test_short_conv
import test_ssd
import test_swiglu
import torch

from benchmarks import parity
from benchmarks.case import SMALL
from benchmarks.contenders import OURS, contenders
from benchmarks.parity import GRADIENT, OUTPUT
from benchmarks.recurrences import GatedDelta, Ssd
from emulator.launch import emulated
from lmtrain.layout import SequenceLayout
from lmtrain.models.config import ModelConfig
from lmtrain.models.decoder import Decoder
from lmtrain.models.init import initialize
from lmtrain.ops.backend import bind
from lmtrain.ops.config import Backend, OpsConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.case import Case

BF16 = torch.bfloat16
QUICK = {
    *("wide_delta usual head sizes", "ssd usual head sizes"),
    *("short_conv three outputs, several blocks", "gated_norm a weight for all heads"),
    *("gated_norm skip, groups", "l2_norm (65, 2, 128)"),
    *("add_norm (70, 48) True", "rms_norm heads", "swiglu (7, 96)", "rotary (37, 3, 64, 32)"),
    *("gates delta (37, 3, 64)", "gates steps (37, 3, 64)"),
}
"""What every test run sees, on Hopper."""


def checks(card: str, which: str) -> dict[str, Callable[[], None]]:
    """``quick``, or those of a kind, the first word of their names."""
    found = {name: partial(_emulated, int(card), call) for name, call in _checks()}
    if which == "quick":
        return {name: found[name] for name in sorted(QUICK)}
    return {name: call for name, call in found.items() if name.split()[0] == which}


def _checks() -> Iterator[tuple[str, Callable[[], None]]]:
    for name, case in test_gated_delta.CASES.items():
        if name != test_delta_forward.ILL:  # 16 bits have no digits for a condition of a thousand
            kind = "gated_delta" if case.value <= 32 >= case.key else "wide_delta"
            yield f"{kind} {name}", partial(check_delta, case)
    for name, case in test_ssd.CASES.items():
        yield f"ssd {name}", partial(check_ssd, case)
    yield from _pointwise()
    summary = test_delta_forward.test_summary_of_the_last_document
    for lengths, segment in values_of(summary, ("lengths", "segment")):
        yield f"span delta {lengths} {segment}", partial(summary, lengths, segment)
    for test in (test_ssd.test_state_of_a_span, test_ssd.test_gradient_of_what_enters_a_span):
        for name in values_of(test, "name"):
            yield f"span ssd {test.__name__} {name}", partial(test, name)
    for width in (64, 128):
        for groups in (1, 2):
            delta = GatedDelta(lengths=(1,), groups=groups, heads=2, width=width)
            yield f"wide_delta {delta.sizes}", partial(check_usual, delta)
            ssd = Ssd(lengths=(1,), groups=groups, heads=2, key=width, value=64)
            yield f"ssd {ssd.sizes}", partial(check_usual, ssd)

    yield "model of four blocks", check_model


def _pointwise() -> Iterator[tuple[str, Callable[[], None]]]:
    for name in test_short_conv.CASES:
        yield f"short_conv {name}", partial(test_short_conv.test_equals_the_naive_form, name, BF16)
    opened = test_gates.test_equals_the_naive_form
    for kind, shape in product(*(values_of(opened, name) for name in ("kind", "shape"))):
        yield f"gates {kind} {shape}", partial(opened, kind, shape, BF16)
    for name in test_gated_norm.CASES:
        yield f"gated_norm {name}", partial(test_gated_norm.test_equals_the_naive_form, name, BF16)
    for name in test_gated_norm.PLAIN:
        norm = test_gated_norm.test_alone_it_equals_the_naive_form
        yield f"rms_norm {name}", partial(norm, name, BF16)
    both = test_add_norm.test_equals_the_naive_form
    for shape, adds in product(*(values_of(both, name) for name in ("shape", "adds"))):
        yield f"add_norm {shape} {adds}", partial(both, shape, adds=adds, dtype=BF16)
    unit = test_swiglu.test_equals_the_naive_form
    for shape in values_of(unit, "shape"):
        yield f"swiglu {shape}", partial(unit, shape, BF16)
    turned = test_rotary.test_equals_the_naive_form
    for shape in values_of(turned, "shape"):
        yield f"rotary {shape}", partial(turned, shape, BF16)
    for shape in values_of(test_l2_norm.test_equals_the_naive_form, "shape"):
        yield f"l2_norm {shape}", partial(test_l2_norm.test_equals_the_naive_form, shape, BF16)


def values_of(test: Callable[..., None], names: str | tuple[str, ...]) -> list[Any]:
    """What a test is parametrised with."""
    [mark] = [m for m in test.pytestmark if m.args[0] == names]  # type: ignore[attr-defined]
    return [getattr(value, "values", value) for value in mark.args[1]]


def check_delta(case: Any) -> None:
    """Outputs, final state and gradients of the gated delta rule."""
    found = test_gated_delta.errors(case, BF16, ends=True)
    for name, error in found.items():
        assert error < (OUTPUT if name in {"out", "final"} else GRADIENT), found


def check_ssd(case: Any) -> None:
    """Outputs, final state and gradients of the scalar-decay recurrence."""
    found = test_ssd.compare(case, dtype=BF16)
    assert max(found[:2]) < OUTPUT, found
    assert max(found[2:]) < GRADIENT, found


def check_usual(case: Case) -> None:
    """As the benchmarks do before they time anything."""
    found = parity.check(case, contenders(case)[OURS], torch.device("cpu"))
    assert found.passed, found


def check_model() -> None:
    """Loss and gradients of a hybrid in bf16, against torch in fp32."""
    layout = SequenceLayout.of_lengths(SMALL)
    tokens = torch.randint(512, (len(layout),))
    found = []
    for backend, dtype in ((Backend.torch, torch.float32), (Backend.triton, BF16)):
        model = Decoder(ModelConfig(d_model=256, n_layers=4, pattern="GM", vocab_size=512))
        initialize(model, seed=0)
        model.compute_dtype = dtype
        # what lets tensors of the host go to kernels, which were defined without it
        with patch.dict(os.environ, TRITON_INTERPRET="1"):
            bind(model, OpsConfig(backend=backend), torch.device("cpu"), dtype)
            total = model(tokens, layout, tokens).total
            total.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore[union-attr]
        found.append((total.item(), gradient))
    (loss, expected), (close, gradient) = found
    assert abs(close - loss) < 1e-3 * loss, found
    assert (gradient - expected).norm() < GRADIENT * expected.norm()


def _emulated(card: int, check: Callable[[], None]) -> None:
    with emulated(card):
        check()
