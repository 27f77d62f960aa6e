"""A linear output layer, visited a slice of tokens at a time, so that all logits never exist.

Whoever visits computes its loss and the gradient of the logits in one go, so logits are never
computed twice; the backward pass only scales what was found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lmtrain.batch import IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

SLICE_ELEMENTS = 1 << 22
"""Logits held at a time: 16 MiB in fp32."""


class Slice(NamedTuple):
    """Of some tokens: whether their targets count ``[n, 1]``, the targets, 0 where ignored
    ``[n, 1]``, ``logits [n, vocab]``, which may be overwritten, and their log-sum-exp ``[n, 1]``.
    """

    rows: slice
    kept: Tensor
    chosen: Tensor
    logits: Tensor
    normaliser: Tensor


class Slices:
    """The slices of logits ``hidden [t, d] @ weight [vocab, d].T``, at least fp32, of ``elements``
    each, and the gradients found there: of an `OutputFunction` whose first inputs are these two.
    """

    nll: Tensor
    """``[t]``: nats of each target, 0 where ignored; known of the slices that were visited."""

    def __init__(
        self, ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, elements: int
    ) -> None:
        precise = torch.promote_types(hidden.dtype, torch.float32)
        self.nll = torch.empty(len(hidden), dtype=precise, device=hidden.device)
        self._hidden, self._table, self._targets = hidden, weight.to(hidden.dtype), targets
        self._tokens = max(1, elements // len(weight))
        self._d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        self._d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None

    def __iter__(self) -> Iterator[Slice]:
        for first in range(0, len(self._hidden), self._tokens):
            rows = slice(first, first + self._tokens)
            kept = (self._targets[rows] != IGNORED)[:, None]
            chosen = self._targets[rows].clamp(min=0)[:, None]
            logits = (self._hidden[rows] @ self._table.T).to(self.nll.dtype)
            normaliser = logits.logsumexp(-1, keepdim=True)
            self.nll[rows] = ((normaliser - logits.gather(1, chosen)) * kept).squeeze(1)
            yield Slice(rows, kept, chosen, logits, normaliser)

    @property
    def trained(self) -> bool:
        """Whether any gradient is asked for."""
        return self._d_hidden is not None or self._d_weight is not None

    def learn(self, rows: slice, d_logits: Tensor) -> None:
        """Take the gradient of a slice's logits."""
        d_logits = d_logits.to(self._hidden.dtype)
        if self._d_hidden is not None:
            self._d_hidden[rows] = d_logits @ self._table
        if self._d_weight is not None:
            self._d_weight += d_logits.T @ self._hidden[rows]

    def save(self, ctx: Any) -> None:
        """Keep the gradients for the backward pass."""
        ctx.save_for_backward(*(x for x in (self._d_hidden, self._d_weight) if x is not None))


class OutputFunction(torch.autograd.Function):
    """Its forward pass gives a sum first, and saves the gradients of ``hidden`` and ``weight``."""

    @staticmethod
    def backward(ctx: Any, d_total: Tensor, *_: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What was found, times the gradient of the sum."""
        grads, needed = iter(ctx.saved_tensors), ctx.needs_input_grad
        scaled = (next(grads) * d_total if need else None for need in needed[:2])
        return *scaled, *(None for _ in needed[2:])
