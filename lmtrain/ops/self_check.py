"""Kernels prove themselves before a run: each against the reference, outputs and gradients.

Compilers for accelerators do go wrong, for one card and one head size at a time, so the case has
the head sizes of the model: a few tokens in packed documents, computed once more in fp64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from lmtrain.layout import SequenceLayout
from lmtrain.ops import reference
from lmtrain.ops.kernel import Width

if TYPE_CHECKING:
    from lmtrain.ops.backend import Operations
    from lmtrain.ops.kernel import Sizes

TOLERANCE = {torch.float32: (1e-3, 1e-3), torch.bfloat16: (2e-2, 3e-2), torch.float16: (1e-2, 2e-2)}
"""Of outputs and of gradients: norm of the error over the norm of what is right."""
LAYOUT = SequenceLayout((0, 25, 175, 176, 196), 5, 196)
"""A span that continues a document, holds a long one and a single token."""
LONG = SequenceLayout((0, 605), 5, 605)
"""A span so long that a card would be idle: kernels cut its document into segments, and link them.
"""

Function: TypeAlias = "Callable[..., tuple[Tensor, ...]]"


class Case(NamedTuple):
    """An operation, its reference, and inputs in fp64."""

    name: str
    fast: Function
    naive: Function
    inputs: list[Tensor]
    exact: int
    """So many inputs, the last ones, are parameters and gates: fp32 whatever the activations."""


@cache
def check_kernels(
    operations: Operations, sizes: Sizes | Width, device: torch.device, dtype: torch.dtype
) -> None:
    """Compare every operation that a part of such sizes calls; the second time does nothing.

    Raises:
        RuntimeError: one disagrees with the reference.
        ValueError: one does not compile, or does not fit on the card.
    """
    versions = f"({sizes}, torch {torch.__version__}{_triton()}). Say ops.backend=torch"
    cases = _of_width if isinstance(sizes, Width) else _of_mixer
    for case in cases(operations, sizes, device):  # type: ignore[operator]
        by = f"{case.name} by {operations.by}"
        try:
            wrong = _disagreement(case, device, dtype)
        except _refusals() as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"{by} cannot run on {_name(device)}: {reason} {versions}") from error
        if wrong:
            raise RuntimeError(
                f"{by} is wrong on {_name(device)}: {wrong} {versions}, and report these versions."
            )


def _of_width(operations: Operations, sizes: Width, device: torch.device) -> Iterator[Case]:
    draw, t, width = _numbers(), len(LAYOUT), sizes.numbers
    if sizes.operation == "rms_norm":
        yield Case(
            "rms_norm",
            lambda x, w: (operations.rms_norm(x, w, 1e-6),),
            lambda x, w: (reference.rms_norm(x, w, 1e-6),),
            [draw(t, width), draw(width)],
            exact=1,
        )
    elif sizes.operation == "add_norm":
        yield Case(
            "add_norm",
            lambda x, added, w: operations.add_norm(x, added, w, 1e-6),
            lambda x, added, w: reference.add_norm(x, added, w, 1e-6),
            [draw(t, width), draw(t, width), draw(width)],
            exact=1,
        )
    elif sizes.operation == "rotate":
        angles = 9 * draw(t, 1, sizes.turned // 2)
        cos, sin = angles.cos(), angles.sin()
        there = [table.to(device, torch.float32) for table in (cos, sin)]
        yield Case(
            "rotate",
            lambda x: (operations.rotate(x, *there),),
            lambda x: (reference.rotate(x, cos, sin),),
            [draw(t, 2, width)],
            exact=0,
        )
    else:
        yield Case(
            "swiglu",
            lambda x: (operations.swiglu(x),),
            lambda x: (reference.swiglu(x),),
            [draw(t, 2 * width)],
            exact=0,
        )


def _numbers() -> Callable[..., Tensor]:
    """Normal numbers in fp64, the same at every call of this."""
    return partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _of_mixer(operations: Operations, sizes: Sizes, device: torch.device) -> Iterator[Case]:
    draw = _numbers()
    groups, t, layout = min(2, sizes.groups), len(LAYOUT), LAYOUT.to(device)
    heads = groups * min(2, sizes.heads // sizes.groups)
    yield _recurrence(operations, sizes, draw, LAYOUT, device, groups=groups)
    yield _recurrence(operations, sizes, draw, LONG, device, groups=1, pace=0.01, initial=1.0)

    widths = [groups * sizes.key] * 2 + [heads * sizes.value]
    channels = sum(widths)
    yield Case(
        "short_conv",
        lambda x, w, b: operations.short_conv(x, w, b, widths, layout=layout),
        lambda x, w, b: reference.short_conv(x, w, b, widths, layout=LAYOUT),
        [draw(t, channels), draw(sizes.taps, channels), draw(channels)],
        exact=2,
    )

    around = _around_delta if sizes.rule == "gated_delta" else _around_ssd
    yield from around(operations, sizes, draw, groups, heads)


def _around_delta(
    operations: Operations, sizes: Sizes, draw: Callable[..., Tensor], groups: int, heads: int
) -> Iterator[Case]:
    t = len(LAYOUT)
    yield Case(
        "delta_gates",
        partial(operations.delta_gates, scale=2.0),
        partial(reference.delta_gates, scale=2.0),
        [draw(t, heads), draw(t, heads), draw(heads), draw(heads)],
        exact=2,
    )
    yield Case(
        "norm_then_gate",
        lambda x, gate, w: (operations.norm_then_gate(x, gate, w, 1e-6),),
        lambda x, gate, w: (reference.norm_then_gate(x, gate, w, 1e-6),),
        [*(draw(t, heads, sizes.value) for _ in range(2)), draw(sizes.value)],
        exact=1,
    )
    yield Case(
        "l2_norm",
        lambda x: (operations.l2_norm(x, 0.1),),
        lambda x: (reference.l2_norm(x, 0.1),),
        [draw(t, groups, sizes.key)],
        exact=0,
    )


def _around_ssd(
    operations: Operations, sizes: Sizes, draw: Callable[..., Tensor], groups: int, heads: int
) -> Iterator[Case]:
    t, each = len(LAYOUT), sizes.heads // sizes.groups
    yield Case(
        "discretize",
        operations.discretize,
        reference.discretize,
        [draw(t, heads, sizes.value), draw(t, heads), draw(heads), draw(heads)],
        exact=2,
    )
    if sizes.norm:
        yield Case(
            "gate_then_norm",
            lambda x, gate, u, w, d: (operations.gate_then_norm(x, gate, w, 1e-6, (u, d)),),
            lambda x, gate, u, w, d: (reference.gate_then_norm(x, gate, w, 1e-6, (u, d)),),
            [
                *(draw(t, groups, each * sizes.value) for _ in range(3)),
                *(draw(groups * each * sizes.value), draw(groups * each)),
            ],
            exact=2,
        )


def _recurrence(
    operations: Operations,
    sizes: Sizes,
    draw: Callable[..., Tensor],
    layout: SequenceLayout,
    device: torch.device,
    *,
    groups: int,
    pace: float = 1.0,
    initial: float = 0.2,
) -> Case:
    """A scan of a row.

    At a ``pace`` well below 1 a token changes little, so that what entered a segment of ``LONG``
    still weighs when it leaves: else no error there would be seen.
    """
    t, heads, there = len(layout), groups * min(2, sizes.heads // sizes.groups), layout.to(device)
    q, k = (F.normalize(draw(t, groups, sizes.key), dim=-1) for _ in "qk")
    v, entering = draw(t, heads, sizes.value), initial * draw(heads, sizes.key, sizes.value)
    decay = -0.3 * pace * draw(t, heads).square()
    beta = [2 * pace * draw(t, heads).sigmoid()] if sizes.rule == "gated_delta" else []
    rule, naive = getattr(operations, sizes.rule), getattr(reference, sizes.rule)
    return Case(
        sizes.rule,
        lambda *x: rule.scan(x[:-1], there, x[-1]),
        lambda *x: naive(*x[:-1], layout=layout, initial=x[-1]),
        [q, k, v, decay, *beta, entering],
        exact=2 + len(beta),
    )


def _disagreement(case: Case, device: torch.device, dtype: torch.dtype) -> str | None:
    """What is wrong, in words; None if nothing is."""
    activations = len(case.inputs) - case.exact
    dtypes = [dtype] * activations + [torch.float32] * case.exact
    card = [x.to(device, d).requires_grad_() for x, d in zip(case.inputs, dtypes, strict=True)]
    host = [x.detach().cpu().double().requires_grad_() for x in card]
    actual, expected = case.fast(*card), case.naive(*host)
    draw = torch.Generator().manual_seed(1)  # the run's own numbers stay what they were
    cotangents = [torch.randn(x.shape, generator=draw, dtype=x.dtype) for x in expected]
    want = torch.autograd.grad(expected, host, cotangents)
    given = [g.to(x) for g, x in zip(cotangents, actual, strict=True)]
    have = torch.autograd.grad(actual, card, given)
    outputs, gradients = TOLERANCE[dtype]
    for kind, most, found, right in (
        ("output", outputs, actual, expected),
        ("gradient of input", gradients, have, want),
    ):
        for i, (a, b) in enumerate(zip(found, right, strict=True)):
            error = ((a.detach().cpu().double() - b).norm() / b.norm()).item()
            if not error < most:
                return f"{kind} {i} is off by {error:.2g} of its norm, {most:.0e} is allowed"
    return None


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _refusals() -> tuple[type[Exception], ...]:
    """What Triton raises for a kernel that does not compile, or asks for more than a card has."""
    if find_spec("triton") is None:
        return ()
    from triton.errors import TritonError

    return (TritonError,)


def _triton() -> str:
    return f", triton {version('triton')}" if find_spec("triton") else ""
