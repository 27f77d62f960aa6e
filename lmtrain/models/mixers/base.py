"""What a mixer is, and the states that the recurrent ones carry through generation.

A mixer owns projections, gates and norms. Everything indexed by token goes through ``kernel`` (and
``convolve``), the one place where sequence parallelism enters; everything else is applied before
or after it, so no mixer ever sees a rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lmtrain.layout import SequenceLayout
    from lmtrain.ops.kernel import Convolve, Kernel
    from lmtrain.ops.recurrence import Recurrence


class SequenceMixer(Protocol):
    """What moves information between tokens."""

    kernel: Kernel

    def forward(self, x: Tensor, layout: SequenceLayout) -> Tensor:
        """``[t, d]`` in and out, over the documents of ``layout``."""
        ...

    def initial_state(self) -> Any:
        """The state of a document of no tokens."""
        ...

    def extend(self, x: Tensor, layout: SequenceLayout, state: Any) -> tuple[Tensor, Any]:
        """``[t, d]`` for the next tokens of one document, and the state after them."""
        ...


def scan(rule: Recurrence, *inputs: Tensor, layout: SequenceLayout) -> Tensor:
    """The local kernel of a recurrence: every document of the span from a zero state."""
    return rule.scan(inputs, layout)[0]


def advance(
    rule: Recurrence, *inputs: Tensor, layout: SequenceLayout, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Outputs and state for the next tokens of one document."""
    if len(layout) > 1 or state is None:
        return rule.scan(inputs, layout, state)
    out, state = rule.step(tuple(x[0] for x in inputs), state)
    return out[None].to(inputs[2].dtype), state


class RecurrentState(NamedTuple):
    """``tail [<= taps - 1, c]``: the last inputs of the convolution; ``matrix [h, k, v]``."""

    tail: Tensor | None = None
    matrix: Tensor | None = None


def convolve_next(
    convolve: Convolve,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    widths: Sequence[int],
    layout: SequenceLayout,
    tail: Tensor | None,
) -> tuple[list[Tensor], Tensor]:
    """The convolution over the next tokens ``x``, given the ``tail`` before them; the next tail."""
    extended = x if tail is None else torch.cat([tail, x])
    before = len(extended) - len(x)
    parts = convolve(extended, weight, bias, widths, layout=layout.widened(before))
    return [y[before:] for y in parts], extended[max(0, len(extended) - len(weight) + 1) :]
