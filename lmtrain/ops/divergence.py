"""Divergence of a linear output layer from that of a teacher, without ever holding all logits.

As in `lmtrain.ops.loss`, each slice of tokens computes both logits, the divergence and the
gradients in one visit, so that logits of student and teacher exist for one slice at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lmtrain.batch import IGNORED
from lmtrain.ops.loss import SLICE_ELEMENTS

if TYPE_CHECKING:
    from torch import Tensor


class LinearDivergence(NamedTuple):
    """``total``: differentiable sum over the targets; ``kl [t]``, ``nll [t]``: detached nats of
    each target, 0 where ignored. All at least fp32."""

    total: Tensor
    kl: Tensor
    nll: Tensor


class Output(NamedTuple):
    """An output layer: logits are ``hidden [t, d] @ weight [vocab, d].T``."""

    hidden: Tensor
    weight: Tensor


def linear_divergence(
    student: Output, teacher: Output, targets: Tensor, temperature: float = 1.0
) -> LinearDivergence:
    """``temperature² · KL(teacher || student)`` of the tokens predicted at each target, in nats.

    Both distributions are softened: their logits are divided by ``temperature``, and the square
    keeps the size of the gradients (Hinton et al. 2015, arXiv 1503.02531, section 2). Positions
    whose target is ``IGNORED`` count nothing. ``nll`` is the student's own loss, unsoftened. No
    gradient reaches the teacher.
    """
    given = (*student, teacher.hidden.detach(), teacher.weight.detach(), targets, temperature)
    return LinearDivergence(*_Function.apply(*given))  # type: ignore[misc]


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        teacher_hidden: Tensor,
        teacher_weight: Tensor,
        targets: Tensor,
        temperature: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        precise = torch.promote_types(hidden.dtype, torch.float32)
        nll = torch.empty(len(hidden), dtype=precise, device=hidden.device)
        kl = torch.empty_like(nll)
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        table, taught = weight.to(hidden.dtype), teacher_weight.to(teacher_hidden.dtype)
        for part in torch.arange(len(hidden)).split(max(1, SLICE_ELEMENTS // (2 * len(weight)))):
            rows = slice(int(part[0]), int(part[-1]) + 1)
            kept = (targets[rows] != IGNORED)[:, None]
            chosen = targets[rows].clamp(min=0)[:, None]
            logits = (hidden[rows] @ table.T).to(precise)
            normaliser = logits.logsumexp(-1, keepdim=True)
            nll[rows] = ((normaliser - logits.gather(1, chosen)) * kept).squeeze(1)
            ours = logits.div_(temperature).log_softmax(-1)
            theirs = (teacher_hidden[rows] @ taught.T).to(precise).div_(temperature).log_softmax(-1)
            wanted = theirs.exp()
            each = (wanted * theirs.sub_(ours)).sum(-1, keepdim=True)
            kl[rows] = (each * kept * temperature**2).squeeze(1)
            if d_hidden is None and d_weight is None:
                continue
            d_logits = ours.exp_().sub_(wanted).mul_(kept * temperature).to(hidden.dtype)
            if d_hidden is not None:
                d_hidden[rows] = d_logits @ table
            if d_weight is not None:
                d_weight += d_logits.T @ hidden[rows]
        ctx.save_for_backward(*(x for x in (d_hidden, d_weight) if x is not None))
        ctx.mark_non_differentiable(kl, nll)
        return kl.sum(), kl, nll

    @staticmethod
    def backward(ctx: Any, d_total: Tensor, *_: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grads = iter(ctx.saved_tensors)
        scaled = (next(grads) * d_total if needed else None for needed in ctx.needs_input_grad[:2])
        return *scaled, None, None, None, None
