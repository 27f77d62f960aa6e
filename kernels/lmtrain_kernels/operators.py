"""Operators of torch that cost the host little where no graph is made of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch._library.custom_ops import CustomOpDef


def operator(
    registered: CustomOpDef,
    backward: CustomOpDef,
    save: Callable[..., None],
    differentiate: Callable[..., Any],
) -> Callable[..., Any]:
    """``registered`` with a gradient; without torch's dispatcher where nothing asks for operators.

    It takes the host 30 us a call and way, as much as a launch: at rows of a few thousand tokens a
    card would wait for it. Graphs and modes, such as selective rematerialisation, see operators.

    Args:
        registered: the forward pass.
        backward: what ``differentiate`` calls.
        save: ``(ctx, inputs, output)``, as ``register_autograd`` wants it.
        differentiate: ``(backward, ctx, *gradients)`` to gradients of all inputs.
    """
    registered.register_autograd(partial(differentiate, backward), setup_context=save)
    compute, go_back = registered._init_fn, partial(differentiate, backward._init_fn)  # pyright: ignore[reportPrivateUsage]

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = compute(*inputs)
            save(ctx, inputs, output)
            return output

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            return go_back(ctx, *gradients)

    def call(*inputs: Any) -> Any:
        return registered(*inputs) if wanted() else Eager.apply(*inputs)

    return call


def wanted() -> bool:
    """Whether somebody looks at operators: a compiler, or a mode."""
    return torch.compiler.is_compiling() or is_in_torch_dispatch_mode()


def check_scan(q: Tensor, k: Tensor, v: Tensor, initial: Tensor | None) -> None:
    """Refuse queries unlike ``k [t, g, kd]``, and what is no state of it and ``v [t, h, vd]``.

    The kernels of a phase see neither beside the other, and would read what is not there.

    Raises:
        ValueError: with both shapes.
    """
    if q.shape != k.shape or q.dtype != k.dtype:
        raise ValueError(
            f"queries are {list(q.shape)} in {q.dtype} and keys {list(k.shape)} in {k.dtype}: "
            "make them alike"
        )
    if initial is not None and initial.shape != (v.shape[1], k.shape[2], v.shape[2]):
        raise ValueError(
            f"the initial state is {list(initial.shape)}, but heads of {list(k.shape)} and "
            f"{list(v.shape)} have {[v.shape[1], k.shape[2], v.shape[2]]}"
        )
