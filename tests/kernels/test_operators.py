"""Operators with and without torch's dispatcher: the same numbers, seen by whom it concerns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from cards import DEVICE
from torch.utils._python_dispatch import TorchDispatchMode

from lmtrain_kernels.add_norm import add_norm
from lmtrain_kernels.gated_delta import gated_delta
from lmtrain_kernels.gated_norm import gated_norm, rms_norm
from lmtrain_kernels.gates import delta_gates, discretize
from lmtrain_kernels.l2_norm import l2_norm
from lmtrain_kernels.rotary import rotary
from lmtrain_kernels.short_conv import short_conv
from lmtrain_kernels.ssd import ssd
from lmtrain_kernels.swiglu import swiglu
from lmtrain_kernels.table import ChunkTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

TABLE = ChunkTable.build([20, 5], 64, device=DEVICE)
T, HEADS, WIDTH = 25, 2, 16
HEADED, ROW, GATE = (T, HEADS, WIDTH), (T, HEADS * WIDTH), (T, HEADS)

CASES: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "gated_delta": (
        lambda q, k, v, g, b: gated_delta(0.1 * q, 0.1 * k, v, -g.abs(), b.sigmoid(), TABLE)[0],
        [HEADED, HEADED, HEADED, GATE, GATE],
    ),
    "ssd": (
        lambda q, k, v, g: ssd(q, k, v, -g.abs(), TABLE)[0],
        [HEADED, HEADED, HEADED, GATE],
    ),
    "short_conv": (
        lambda x, w: torch.cat(short_conv(x, w, widths=[8, 24]), -1),
        [ROW, (4, ROW[1])],
    ),
    "delta_gates": (
        lambda dt, beta, bias, A: sum(delta_gates(dt, beta, bias, A, 2.0)),
        [GATE, GATE, (HEADS,), (HEADS,)],
    ),
    "discretize": (
        lambda u, dt, bias, A: discretize(u, dt, bias, A)[0],
        [HEADED, GATE, (HEADS,), (HEADS,)],
    ),
    "gated_norm": (
        lambda x, gate, w: gated_norm(x, gate, w, 1e-6, norm_before_gate=True),
        [HEADED, HEADED, (WIDTH,)],
    ),
    "rms_norm": (lambda x, w: rms_norm(x, w, 1e-6), [ROW, ROW[1:]]),
    "add_norm": (lambda x, y, w: sum(add_norm(x, y, w, 1e-6)), [ROW, ROW, ROW[1:]]),
    "l2_norm": (l2_norm, [HEADED]),
    "swiglu": (swiglu, [ROW]),
    "rotary": (
        lambda x: rotary(x, *(x.detach()[:, :1, :8].contiguous() for _ in range(2))),
        [HEADED],
    ),
}
NAMES = {name: name for name in CASES} | {
    "rms_norm": "gated_norm",
    "add_norm": "gated_norm",
    "delta_gates": "gates",
    "discretize": "gates",
}


class Seen(TorchDispatchMode):
    """Remembers our operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002, PLR6301, RUF100
        if func.namespace == "lmtrain":
            self.names.add(func.name().removeprefix("lmtrain::"))
        return func(*args, **(kwargs or {}))


def draw(name: str) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape).to(DEVICE).requires_grad_() for shape in CASES[name][1]]


@pytest.mark.parametrize("name", CASES)
def test_a_mode_sees_the_operator_and_changes_no_bit(name: str) -> None:
    run, inputs = CASES[name][0], draw(name)

    def step() -> list[Tensor]:
        out = run(*inputs)
        return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    plain = step()
    with Seen() as seen:
        shown = step()
    assert seen.names == {NAMES[name], f"{NAMES[name]}_backward"} - {"rotary_backward"}
    assert all(torch.equal(a, b) for a, b in zip(plain, shown, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_no_second_derivative_is_made_up(name: str) -> None:
    run, inputs = CASES[name][0], draw(name)
    (first, *_) = torch.autograd.grad(run(*inputs).square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="marked with @once_differentiable"):
        first.sum().backward()
