"""Divergence of a linear output layer from that of a teacher, without ever holding all logits.

As in `lmtrain.ops.loss`, logits of student and teacher exist for one slice of tokens at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lmtrain.ops.output import SLICE_ELEMENTS, OutputFunction, Slices

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


class _Function(OutputFunction):
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
        slices = Slices(ctx, hidden, weight, targets, SLICE_ELEMENTS // 2)
        kl, taught = torch.empty_like(slices.nll), teacher_weight.to(teacher_hidden.dtype)
        for rows, kept, _, logits, _ in slices:
            ours = logits.div_(temperature).log_softmax(-1)
            theirs = (teacher_hidden[rows] @ taught.T).to(ours.dtype)
            theirs = theirs.div_(temperature).log_softmax(-1)
            wanted = theirs.exp()
            each = (wanted * theirs.sub_(ours)).sum(-1, keepdim=True)
            kl[rows] = (each * kept * temperature**2).squeeze(1)
            if slices.trained:
                slices.learn(rows, ours.exp_().sub_(wanted).mul_(kept * temperature))
        slices.save(ctx)
        ctx.mark_non_differentiable(kl, slices.nll)
        return kl.sum(), kl, slices.nll
