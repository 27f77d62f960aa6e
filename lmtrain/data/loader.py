"""The loader: reads the batches of a plan ahead of the step that needs them."""

from __future__ import annotations

import sys
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, Self

import torch

from lmtrain.data.config import check_tokens_per_step
from lmtrain.data.rows import move_row, read_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.batch import Batch
    from lmtrain.data.bucket import Draw
    from lmtrain.data.sources import Corpus


class Draws(Protocol):
    """What is read at each step: a `Plan`, or something like it."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a global batch."""
        ...

    @property
    def lengths(self) -> list[int]:
        """Lengths of pieces, shortest first."""
        ...

    def __getitem__(self, step: int) -> Draw:
        """The global batch of a step."""
        ...


class Loader:
    """For each step, this rank's part of the global batch: ``accumulate`` batches of one row each.

    A global batch is cut into ``accumulate * world`` rows of whole pieces, in order; in micro-step
    ``a``, rank ``r`` has row ``a * world + r``. Where a row is shared by ``sequence_world``
    processes, each reads its own span of it. Nothing but the step decides what is read, so any
    number of ranks, micro-steps, threads and restarts sees the same global batches.

    Args:
        store: where the tokens are.
        plan: which of them each step reads.
        first_step: where to begin.
        stop: the step to end before; None never ends.
        accumulate: micro-steps of a step.
        rank: which rows of a step are read here.
        world: how many processes, or groups of them, share the rows of a step.
        sequence_rank: which span of each row is read here.
        sequence_world: how many processes share a row.
        device: where the batches go.
        prefetch: steps read ahead; 0 reads when asked.
        threads: threads that read ahead.

    Raises:
        ValueError: a row would not be whole pieces, or not cut into equal spans.
    """

    wait_seconds: float = 0.0
    """How long the last step waited for its data."""

    def __init__(  # noqa: PLR0913  (twelve independent facts)
        self,
        store: Corpus,
        plan: Draws,
        *,
        first_step: int = 0,
        stop: int | None = None,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        sequence_rank: int = 0,
        sequence_world: int = 1,
        device: torch.device | str = "cpu",
        prefetch: int = 4,
        threads: int = 1,
    ) -> None:
        for problem in check_tokens_per_step(
            plan.tokens_per_step,
            max_length=plan.lengths[-1],
            accumulate=accumulate,
            world=world,
            sequence=sequence_world,
        ):
            raise ValueError(problem)
        self._store, self._plan = store, plan
        self._steps = range(first_step, sys.maxsize if stop is None else stop)
        self._rows = range(rank, accumulate * world, world)
        self._sequence = sequence_rank, sequence_world
        self._row_tokens = plan.tokens_per_step // (accumulate * world)
        self._device = torch.zeros(0, device=device).device  # "cuda" becomes "cuda:0"
        self._prefetch = prefetch
        self._pool = ThreadPoolExecutor(threads, "lmtrain-loader", self._enter_thread)

    def __iter__(self) -> Iterator[list[Batch]]:
        """The batches of each step, from the first on; an error of a reading thread is raised."""
        steps = iter(self._steps)
        waiting: deque[Future[list[Batch]]] = deque()
        while True:
            started = time.perf_counter()
            for step in steps:
                waiting.append(self._pool.submit(self._read, step))
                if len(waiting) > self._prefetch:
                    break
            if not waiting:
                return
            batches = waiting.popleft().result()
            self.wait_seconds = time.perf_counter() - started
            yield [move_row(batch, self._device) for batch in batches]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading ahead and wait for the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _read(self, step: int) -> list[Batch]:
        draw, (rank, world) = self._plan[step], self._sequence
        return [
            read_row(
                self._store,
                draw.row(row, self._row_tokens),
                sequence_rank=rank,
                sequence_world=world,
                device=self._device,
            )
            for row in self._rows
        ]

    def _enter_thread(self) -> None:
        if self._device.type == "cuda":  # pinning happens in the context of the thread's device
            torch.cuda.set_device(self._device)
