"""Whether a contender computes what the reference does: no time is told of one that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.case import Case
    from benchmarks.contenders import Contender

OUTPUT, GRADIENT = 2e-2, 3e-2
"""Norm of the error over the norm of what is right, in bf16."""


class Parity(NamedTuple):
    """Errors of the output and of the gradient of every input."""

    errors: tuple[float, ...]

    @property
    def passed(self) -> bool:
        """Whether all are small; NaN is not."""
        output, *gradients = self.errors
        return output < OUTPUT and all(error < GRADIENT for error in gradients)


def check(case: Case, contender: Contender, device: torch.device) -> Parity:
    """On packed documents of few tokens, against the reference in fp64 on the same device."""
    small = case.small()
    layout = small.layout(device)
    generator = torch.Generator(device).manual_seed(1)
    inputs = small.draw(generator)
    fast = [x.requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out, expected = contender(small, layout)(*fast), small.expected(tuple(exact), layout)
    cotangent = torch.randn(out.shape, generator=generator, device=device).to(out.dtype)
    have = torch.autograd.grad(out, fast, cotangent)
    want = torch.autograd.grad(expected, exact, cotangent.double())
    pairs = zip([out, *have], [expected, *want], strict=True)
    return Parity(tuple(_error(a, b) for a, b in pairs))


def _error(found: Tensor, right: Tensor) -> float:
    return float((found.detach().double() - right.detach()).norm() / right.detach().norm())
