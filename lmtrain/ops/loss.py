"""Cross-entropy of a linear output layer, without ever holding all logits.

Each slice of tokens computes its logits, its loss and its gradients in one visit, so logits exist
for one slice at a time and are never computed twice. ``torch.nn.functional.linear_cross_entropy``
was not adopted: it is absent from torch 2.11, has no z-loss and no per-token output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lmtrain.batch import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

SLICE_ELEMENTS = 1 << 22
"""Logits held at a time: 16 MiB in fp32."""


class LinearCrossEntropy(NamedTuple):
    """``total``: differentiable sum over the targets of nll + z_loss * lse²; ``nll [t]``: detached
    nats of each target, 0 where ignored. Both at least fp32."""

    total: Tensor
    nll: Tensor


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float = 0.0
) -> LinearCrossEntropy:
    """Loss of ``targets [t]`` under logits ``hidden [t, d] @ weight [vocab, d].T``.

    Targets equal to ``IGNORED`` count nothing. ``z_loss`` weighs the square of the log-normaliser
    (Chowdhery et al. 2022, section 5).
    """
    return LinearCrossEntropy(*_Function.apply(hidden, weight, targets, z_loss))  # type: ignore[misc]


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float
    ) -> tuple[Tensor, Tensor]:
        precise = torch.promote_types(hidden.dtype, torch.float32)
        nll = torch.empty(len(hidden), dtype=precise, device=hidden.device)
        total = nll.new_zeros(())
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        table = weight.to(hidden.dtype)
        for part in torch.arange(len(hidden)).split(max(1, SLICE_ELEMENTS // len(weight))):
            rows = slice(int(part[0]), int(part[-1]) + 1)
            kept = (targets[rows] != IGNORED)[:, None]
            chosen = targets[rows].clamp(min=0)[:, None]
            logits = (hidden[rows] @ table.T).to(precise)
            normaliser = logits.logsumexp(-1, keepdim=True)
            nll[rows] = ((normaliser - logits.gather(1, chosen)) * kept).squeeze(1)
            total += (z_loss * normaliser.square() * kept).sum() + nll[rows].sum()
            if d_hidden is None and d_weight is None:
                continue
            slope = kept * (1 + 2 * z_loss * normaliser)
            d_logits = logits.sub_(normaliser).exp_().mul_(slope)
            d_logits.scatter_add_(1, chosen, -kept.to(precise))
            d_logits = d_logits.to(hidden.dtype)
            if d_hidden is not None:
                d_hidden[rows] = d_logits @ table
            if d_weight is not None:
                d_weight += d_logits.T @ hidden[rows]
        ctx.save_for_backward(*(x for x in (d_hidden, d_weight) if x is not None))
        ctx.mark_non_differentiable(nll)
        return total, nll

    @staticmethod
    def backward(ctx: Any, d_total: Tensor, _: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grads = iter(ctx.saved_tensors)
        scaled = (next(grads) * d_total if needed else None for needed in ctx.needs_input_grad[:2])
        return *scaled, None, None
