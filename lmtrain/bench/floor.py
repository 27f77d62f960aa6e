"""The floor of a training step: what every implementation of a model has to compute.

A step cannot be quicker than the products of its projections, MLPs and output head, nor, where it
has softmax attention, than those together with it. Norms, gates, convolutions, recurrences and the
loss are left out: how much of them is needed is what implementations differ in.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lmtrain.layout import SequenceLayout
from lmtrain.models.layers import Linear
from lmtrain.models.mixers.attention import Attention

if TYPE_CHECKING:
    from lmtrain.models.decoder import Decoder


class Products(nn.Module):
    """Every linear layer of a model on random activations, with nothing in between.

    With ``attention``, softmax attention of the model's heads as well.
    """

    values: Tensor

    def __init__(self, model: Decoder, tokens: int, dtype: torch.dtype, *, attention: bool) -> None:
        super().__init__()
        linears = [m for m in model.modules() if isinstance(m, Linear)]
        if model.head is None:  # the embedding is the head
            linears.append(Linear(*reversed(model.embedding.weight.shape)))
        mixers = [m for m in model.modules() if isinstance(m, Attention)] if attention else []
        self.linears = nn.ModuleList(linears)
        self.kernels = [m.kernel for m in mixers]
        self.heads = [(m.config.heads, m.config.kv_heads, m.head_dim) for m in mixers]
        for weight in self.parameters():
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        widths = [weight.shape[1] for weight in self.parameters()]  # of q too: it is projected out
        self.register_buffer("values", torch.randn(tokens * max(widths), dtype=dtype))

    def forward(self, lengths: list[int]) -> Tensor:
        """A zero whose backward pass is that of every layer; documents have these lengths."""
        layout = SequenceLayout.of_lengths(lengths).to(self.values.device)
        inputs = [self._input(sum(lengths), w.shape[1]) for w in self.parameters()]
        outputs = [linear(x) for linear, x in zip(self.linears, inputs, strict=True)]
        for kernel, (heads, shared, width) in zip(self.kernels, self.heads, strict=True):
            q, k, v = (self._input(sum(lengths), n, width) for n in (heads, shared, shared))
            outputs.append(kernel(q, k, v, layout=layout))
        return torch.stack([_Own.apply(y) for y in outputs]).sum()

    def _input(self, *shape: int) -> Tensor:
        """Random activations, whose gradient is asked for like that of any layer's input."""
        return self.values[: prod(shape)].view(shape).requires_grad_()


class _Own(torch.autograd.Function):
    """Zero, with ``y`` as its own gradient: a loss would add passes over memory."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return y.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.saved_tensors[0]
