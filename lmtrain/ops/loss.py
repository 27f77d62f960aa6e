"""Cross-entropy of a linear output layer, without ever holding all logits.

``torch.nn.functional.linear_cross_entropy`` was not adopted: it is absent from torch 2.11, has no
z-loss and no per-token output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lmtrain.ops.output import SLICE_ELEMENTS, OutputFunction, Slices

if TYPE_CHECKING:
    from torch import Tensor


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


class _Function(OutputFunction):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float
    ) -> tuple[Tensor, Tensor]:
        slices = Slices(ctx, hidden, weight, targets, SLICE_ELEMENTS)
        total = slices.nll.new_zeros(())
        for rows, kept, chosen, logits, normaliser in slices:
            total += (z_loss * normaliser.square() * kept).sum() + slices.nll[rows].sum()
            if slices.trained:
                slope = kept * (1 + 2 * z_loss * normaliser)
                d_logits = logits.sub_(normaliser).exp_().mul_(slope)
                slices.learn(rows, d_logits.scatter_add_(1, chosen, -kept.to(d_logits.dtype)))
        slices.save(ctx)
        ctx.mark_non_differentiable(slices.nll)
        return total, slices.nll
