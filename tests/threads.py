"""Ranks as threads of this process: any number of them, in no time."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Queue
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from lmtrain.parallel.collectives import Group, Spec, Traffic, pack, packed_size, spec, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class ThreadGroup(Group):
    """A group whose messages are queues, and which sees that both ends mean the same bytes."""

    queues: dict[tuple[int, int], Queue[Tensor]] = field(default_factory=dict)
    dtypes: list[torch.dtype] = field(default_factory=list[torch.dtype])
    """Of every tensor that this rank sent."""

    def all_gather(self, x: Tensor) -> Callable[[], Tensor]:
        """As of a group."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        wait = self.exchange(
            [(rank, [x]) for rank in others], [(rank, [spec(x)]) for rank in others]
        )

        def arrive() -> Tensor:
            parts = {self.rank: x} | {r: y for r, (y,) in zip(others, wait(), strict=True)}
            return torch.stack([parts[rank] for rank in range(self.size)])

        return arrive

    def reduce_scatter(self, x: Tensor) -> Callable[[], Tensor]:
        """As of a group."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        coming = [(rank, [spec(x[0])]) for rank in others]
        wait = self.exchange([(rank, [x[rank]]) for rank in others], coming)
        return lambda: x[self.rank] + sum(y for (y,) in wait())

    def exchange(
        self,
        sends: Sequence[tuple[int, Sequence[Tensor]]],
        receives: Sequence[tuple[int, Sequence[Spec]]],
    ) -> Callable[[], list[list[Tensor]]]:
        """As of a group."""
        for peer, tensors in sends:
            message = pack(tensors)
            if len(message):
                assert peer != self.rank
                self.queues[self.rank, peer].put(message.clone())
                self.traffic.sent += message.nbytes
                self.dtypes.extend(x.dtype for x in tensors if len(x))

        def arrive() -> list[list[Tensor]]:
            found: list[list[Tensor]] = []
            for peer, specs in receives:
                size = packed_size(specs)
                empty = torch.empty(0, dtype=torch.uint8)
                got = self.queues[peer, self.rank].get(timeout=PATIENCE_SECONDS) if size else empty
                assert len(got) == size
                found.append(unpack(got, specs))
            return found

        return arrive


def run(world: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """``work(group, *args)`` on each of ``world`` ranks: what every rank returns."""
    queues: dict[tuple[int, int], Queue[Tensor]] = defaultdict(Queue)
    for pair in [(a, b) for a in range(world) for b in range(world)]:
        queues[pair]  # all exist before the threads do
    groups = [
        ThreadGroup(cast("Any", None), rank, world, torch.device("cpu"), Traffic(), queues)
        for rank in range(world)
    ]
    with ThreadPoolExecutor(world) as pool:
        results = list(pool.map(lambda group: work(group, *args), groups))
    assert all(queue.empty() for queue in queues.values()), "a message nobody received"
    return results
