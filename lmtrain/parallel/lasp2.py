"""LASP-2: one all-gather of what each span does to a state; each rank folds those before its own.

Sun et al. 2025 (arXiv 2502.07563), here for any affine transition and any packing. Where no span
lies strictly inside a document, what enters is the state of the rank before: then one message
between neighbours does it, and no transition is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmtrain.layout import SequenceLayout
from lmtrain.ops.recurrence import AffineState, coact
from lmtrain.ops.remat import remember
from lmtrain.parallel.collectives import Group

if TYPE_CHECKING:
    from collections.abc import Callable


def only_neighbours(layout: SequenceLayout, ranks: int) -> bool:
    """Whether no span lies strictly inside a document: every state comes from the rank before."""
    spans = layout.derive(SequenceLayout.spans, ranks)
    return not any(span.alive and span.spills for span in spans)


@dataclass(frozen=True)
class Lasp2:
    """The carry of LASP-2; ``kept`` are the transitions of the later ranks of its document."""

    group: Group

    def enter(
        self, layout: SequenceLayout, empty: Tensor, summarize: Callable[[], AffineState]
    ) -> Callable[[], tuple[Tensor | None, Tensor | None]]:
        """Fold the states of the ranks that the document of the first token began on."""
        if not layout.derive(only_neighbours, self.group.size):
            return remember(lambda: self._gather(layout, summarize()))

        def start() -> Callable[[], tuple[Tensor | None, None]]:
            wait = self.group.hand_on(
                1,
                summarize().state if layout.spills else None,
                empty if layout.continues else None,
            )
            return lambda: (wait(), None)

        return remember(start)

    def leave(
        self,
        layout: SequenceLayout,
        empty: Tensor,
        kept: Tensor | None,
        cosummarize: Callable[[], Tensor],
    ) -> Callable[[], Tensor | None]:
        """Fold the gradients of the ranks that the document of the last token goes on to."""
        if layout.derive(only_neighbours, self.group.size):
            send = cosummarize() if layout.continues else None
            return self.group.hand_on(-1, send, empty if layout.spills else None)
        wait = self.group.all_gather(cosummarize())
        return lambda: _fold_back(wait(), kept, layout)

    def _gather(
        self, layout: SequenceLayout, mine: AffineState
    ) -> Callable[[], tuple[Tensor | None, Tensor | None]]:
        sizes = [mine.transition.numel(), mine.state.numel()]
        wait = self.group.all_gather(torch.cat([x.flatten() for x in mine]))

        def finish() -> tuple[Tensor | None, Tensor | None]:
            transitions, states = wait().split(sizes, 1)
            transitions = transitions.unflatten(1, mine.transition.shape)
            entering = _fold(transitions, states.unflatten(1, mine.state.shape), layout)
            later = transitions[self.group.rank + 1 : (layout.closed - 1) // len(layout)]
            return entering, later.clone() if len(later) else None

        return finish


def _fold(transitions: Tensor, states: Tensor, layout: SequenceLayout) -> Tensor | None:
    """The state that enters the span, out of what all spans do to one."""
    if not layout.continues:
        return None
    first, rank = layout.opened // len(layout), layout.start // len(layout)
    state = states[first].clone()  # the gathered buffer is not kept for the backward pass
    for j in range(first + 1, rank):
        state = AffineState(transitions[j], states[j]).act(state)
    return state


def _fold_back(grads: Tensor, later: Tensor | None, layout: SequenceLayout) -> Tensor | None:
    """The gradient of the state that leaves the span; ``later``: transitions from the next on."""
    if not layout.spills:
        return None
    rank, last = layout.start // len(layout), (layout.closed - 1) // len(layout)
    d_state = grads[last]
    for j in range(last - 1, rank, -1):
        assert later is not None
        d_state = coact(later[j - rank - 1], d_state) + grads[j]
    return d_state
