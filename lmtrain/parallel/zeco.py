"""ZeCO: a pipelined chain of states, All-Scan; only the state travels, whatever the ranks.

Chou et al. 2025 (arXiv 2507.01004), forward and backward, here also for matrix transitions: those
mix the rows of a state and never its columns, so blocks are columns (values), and a transition
stays on its rank.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmtrain.ops.recurrence import AffineState, act, coact
from lmtrain.ops.remat import remember
from lmtrain.parallel.collectives import Group

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lmtrain.layout import SequenceLayout


@dataclass(frozen=True)
class Zeco:
    """The carry of All-Scan; ``kept`` is the transition of this rank's own span."""

    group: Group
    blocks: int
    """Parts that the columns of a state travel in."""

    def enter(
        self, layout: SequenceLayout, empty: Tensor, summarize: Callable[[], AffineState]
    ) -> Callable[[], tuple[Tensor | None, Tensor | None]]:
        """Receive the state block by block, and hand it on with what this span does to it."""

        def start() -> Callable[[], tuple[Tensor | None, Tensor | None]]:
            mine = summarize() if layout.spills else None
            inner = mine.transition if mine and layout.alive else None
            source = empty if layout.continues else None
            wait = self._chain(
                1, source, mine and mine.state, None if inner is None else lambda x: act(inner, x)
            )
            return lambda: (wait(), inner)

        return remember(start)

    def leave(
        self,
        layout: SequenceLayout,
        empty: Tensor,
        kept: Tensor | None,
        cosummarize: Callable[[], Tensor],
    ) -> Callable[[], Tensor | None]:
        """The same chain from the last rank to the first."""
        mine = cosummarize() if layout.continues else None
        source = empty if layout.spills else None
        return self._chain(-1, source, mine, None if kept is None else lambda x: coact(kept, x))

    def _chain(
        self,
        step: int,
        source: Tensor | None,
        mine: Tensor | None,
        through: Callable[[Tensor], Tensor] | None,
    ) -> Callable[[], Tensor | None]:
        """Run the chain beside the caller.

        Args:
            step: 1 forward, -1 backward.
            source: like what comes from the rank before; None if nothing does.
            mine: what this span adds for the rank after; None if nothing goes there.
            through: what the span does to what came; None if that ends here.
        """

        def run() -> Tensor | None:
            own, rank = self._blocks(mine), self.group.rank
            if through is None:  # the next rank need not wait for what comes here
                pairs = zip_longest(own, self._blocks(source))
                waits = [self.group.hand_on(step, part, like) for part, like in pairs]
                came = [state for wait in waits if (state := wait()) is not None]
                return torch.cat(came, -1) if came else None
            came, leaving = list[Tensor](), list[Callable[[], object]]()
            for state, part in zip(self._arriving(rank - step, source), own, strict=True):
                came.append(state)
                leaving.append(self.group.send(rank + step, through(state) + part))
            for wait in leaving:
                wait()
            return torch.cat(came, -1)

        return beside(run, (source, mine), self.group.device)

    def _arriving(self, rank: int, like: Tensor | None) -> Iterator[Tensor]:
        """The blocks from a rank; one is asked for ahead, so that what is sent meanwhile need not
        queue behind them all."""
        waiting = deque[Callable[[], Tensor]]()
        for part in self._blocks(like):
            waiting.append(self.group.receive(rank, part))
            if len(waiting) > 1:
                yield waiting.popleft()()
        for wait in waiting:
            yield wait()

    def _blocks(self, state: Tensor | None) -> tuple[Tensor, ...]:
        return () if state is None else state.tensor_split(self.blocks, -1)


_thread = ThreadPoolExecutor(1, "lmtrain-chain")


def beside(
    work: Callable[[], Tensor | None], reads: Sequence[Tensor | None], device: torch.device
) -> Callable[[], Tensor | None]:
    """Start ``work`` beside what follows: in a thread for CPUs, on a stream of its own for CUDA."""
    if device.type != "cuda":
        return _thread.submit(torch.no_grad()(work)).result
    stream, here = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        result = work()
    for x in reads:
        if x is not None:
            x.record_stream(stream)  # its memory is not used again before the stream has read it

    def wait() -> Tensor | None:
        here.wait_stream(stream)
        if result is not None:
            result.record_stream(here)
        return result

    return wait
