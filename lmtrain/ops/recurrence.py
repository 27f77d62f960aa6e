"""What every linear recurrence shares: the affine law of its state, and the scan over a span.

A linear mixer is an affine map on its state, ``S -> transition · S + state``, whatever span of
tokens it is taken over. A document boundary is a zero transition.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from lmtrain.ops.remat import keep

if TYPE_CHECKING:
    from lmtrain.layout import SequenceLayout

Grid = TypeVar("Grid")
"""Where a rule finds the chunks and documents of a span."""
Forward = TypeVar("Forward")
"""What a rule keeps between the phases of its forward pass."""
Backward = TypeVar("Backward")
"""What a rule keeps between the phases of its backward pass."""


class AffineState(NamedTuple):
    """What a span does to the state that enters it: ``S -> transition · S + state``.

    ``transition`` is ``[h]`` (scalar decay) or ``[h, k, k]`` (delta rule), zero where a document
    opens inside the span; ``state`` is ``[h, k, v]``. Both are at least fp32.
    """

    transition: Tensor
    state: Tensor

    def act(self, state: Tensor) -> Tensor:
        """``[h, k, v]`` state after the span when ``state`` enters it."""
        return act(self.transition, state) + self.state

    def then(self, later: AffineState) -> AffineState:
        """This span followed by ``later`` as one span (associative)."""
        transition = act(later.transition, self.transition)
        return AffineState(transition, later.act(self.state))


def act(transition: Tensor, state: Tensor) -> Tensor:
    """A transition ``[h]`` or ``[h, k, k]`` on ``state``, ``[h]`` or ``[h, k, …]``."""
    if transition.dim() > 1:
        return transition @ state
    return transition.view(-1, *[1] * (state.dim() - 1)) * state


def coact(transition: Tensor, d_state: Tensor) -> Tensor:
    """The transpose of ``act``: the gradient of a state, through a transition, ``[h, k, v]``."""
    return act(transition.mT if transition.dim() > 1 else transition, d_state)


class Carry(Protocol):
    """Brings the state that enters a span from the spans before it, and its gradient back.

    Both methods start what has to be done and return a function that waits for the result, so that
    the scan can compute meanwhile. They are called once each, in this order, for every span.
    """

    def enter(
        self, layout: SequenceLayout, empty: Tensor, summarize: Callable[[], AffineState]
    ) -> Callable[[], tuple[Tensor | None, Tensor | None]]:
        """The state that enters, None for zero; and what ``leave`` wants back.

        ``empty [h, k, v]`` has the shape, dtype and device of a state; its values mean nothing.
        """
        ...

    def leave(
        self,
        layout: SequenceLayout,
        empty: Tensor,
        kept: Tensor | None,
        cosummarize: Callable[[], Tensor],
    ) -> Callable[[], Tensor | None]:
        """The gradient ``[h, k, v]`` of the state that leaves the span, None for zero.

        ``cosummarize`` gives what the outputs of the span alone add to the gradient of the state
        that entered it.
        """
        ...


class Recurrence(ABC, Generic[Grid, Forward, Backward]):
    """A linear state update: all that a linear mixer has to say for itself.

    ``inputs`` are token-first tensors ``[t, heads, …]``; states are ``[h, k, v]``, at least fp32.
    The phases have no gradient of their own: ``scan`` puts them together, in one process and across
    many alike.
    """

    def scan(
        self,
        inputs: tuple[Tensor, ...],
        layout: SequenceLayout,
        initial: Tensor | None = None,
        carry: Carry | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Outputs ``[t, h, v]`` in the dtype of ``v``, and the state after the span, ``[h, k, v]``.

        The state that enters is ``initial``, or what ``carry`` brings; without both it is zero.
        """
        return _Scan.apply(self, layout, carry, initial, *inputs)  # type: ignore[return-value]

    @torch.no_grad()
    def summarize(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> AffineState:
        """What the span does to the state that enters it; not differentiable."""
        grid = self.grid(inputs, layout)
        return self.summary(self.begin(inputs, grid), grid, alive=layout.alive)

    @abstractmethod
    def step(self, inputs: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
        """One token, ``[h, …]`` inputs: its output ``[h, v]`` and the next state."""

    @abstractmethod
    def grid(self, inputs: tuple[Tensor, ...], layout: SequenceLayout) -> Grid:
        """The chunks of a span, derived once for a layout; of the inputs only shapes count."""

    @abstractmethod
    def begin(self, inputs: tuple[Tensor, ...], grid: Grid) -> Forward:
        """What the state pass needs of every chunk."""

    @abstractmethod
    def summary(self, work: Forward, grid: Grid, *, alive: bool) -> AffineState:
        """The state pass from zero, over the last row; the transition is zero if not ``alive``."""

    @abstractmethod
    def inside(self, work: Forward) -> Tensor:
        """What of the outputs needs no state."""

    @abstractmethod
    def finish(
        self, work: Forward, inside: Tensor, initial: Tensor | None, grid: Grid
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Outputs, final state, and what the backward pass keeps; may overwrite ``inside``."""

    @abstractmethod
    def begin_backward(
        self,
        inputs: tuple[Tensor, ...],
        kept: tuple[Tensor, ...],
        d_out: Tensor,
        grid: Grid,
    ) -> Backward:
        """What the state pass backward in time needs of every chunk."""

    @abstractmethod
    def cosummary(self, work: Backward, grid: Grid) -> Tensor:
        """``[h, k, v]``: that pass from zero, over the first row; the gradient of its initial."""

    @abstractmethod
    def finish_backward(
        self, work: Backward, d_final: Tensor | None, grid: Grid
    ) -> tuple[list[Tensor], Tensor]:
        """The gradients of all inputs, and of the initial state ``[h, k, v]``."""


class _Scan(torch.autograd.Function):
    """The phases of a rule in order, the state carried in between."""

    @staticmethod
    def forward(
        ctx: Any,
        rule: Recurrence[Any, Any, Any],
        layout: SequenceLayout,
        carry: Carry | None,
        initial: Tensor | None,
        *inputs: Tensor,
    ) -> tuple[Tensor, Tensor]:
        grid = rule.grid(inputs, layout)

        def compute() -> tuple[Tensor, Tensor, tuple[Tensor, ...], Tensor | None]:
            work = rule.begin(inputs, grid)
            if carry is None:
                return *rule.finish(work, rule.inside(work), initial, grid), None
            arrival = carry.enter(
                layout, empty_state(inputs), lambda: rule.summary(work, grid, alive=layout.alive)
            )
            inside = rule.inside(work)
            entering, transitions = arrival()
            return *rule.finish(work, inside, entering, grid), transitions

        out, final, kept, transitions = keep(compute)
        ctx.save_for_backward(transitions, *inputs, *kept)
        ctx.rule, ctx.layout, ctx.grid, ctx.carry = rule, layout, grid, carry
        ctx.inputs = len(inputs)
        return out.detach(), final.detach()

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, d_final: Tensor | None) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        transitions, *saved = ctx.saved_tensors
        inputs, kept = tuple(saved[: ctx.inputs]), tuple(saved[ctx.inputs :])
        rule, grid = ctx.rule, ctx.grid
        work = rule.begin_backward(inputs, kept, d_out, grid)
        if ctx.carry is not None:
            d_final = ctx.carry.leave(
                ctx.layout, empty_state(inputs), transitions, lambda: rule.cosummary(work, grid)
            )()
        grads, d_initial = rule.finish_backward(work, d_final, grid)
        grads = [grad.to(x.dtype) for grad, x in zip(grads, inputs, strict=True)]
        return None, None, None, d_initial if ctx.needs_input_grad[3] else None, *grads


def empty_state(inputs: tuple[Tensor, ...]) -> Tensor:
    """A state ``[h, k, v]`` for inputs ``q, k, v, …``, without values."""
    k, v = inputs[1], inputs[2]
    dtype = torch.promote_types(v.dtype, torch.float32)
    return v.new_empty(v.shape[1], k.shape[2], v.shape[2], dtype=dtype)
