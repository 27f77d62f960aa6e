"""The ranks that share a row, and the smaller groups that its documents leave them in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from lmtrain.parallel.collectives import Group, Traffic

if TYPE_CHECKING:
    from datetime import timedelta


@dataclass(frozen=True)
class Place:
    """Where a process stands: which rows of a step are here, and which span of each."""

    rank: int = 0
    """Which rows, of ``world`` shares of them."""
    world: int = 1
    sequence_rank: int = 0
    """Which span, of ``sequence_world``."""
    sequence_world: int = 1

    @property
    def cuts(self) -> int:
        """Equal parts that every row must have: two a span where it is shared, for zigzag."""
        return 1 if self.sequence_world == 1 else 2 * self.sequence_world

    @classmethod
    def of(cls, rank: int, world: int, sequence: int) -> Place:
        """Of a process, when ``sequence`` neighbours share every row."""
        return cls(rank // sequence, world // sequence, rank % sequence, sequence)


@dataclass(frozen=True)
class SequenceMesh:
    """The groups in which one rank of a row can speak.

    Ranks are numbered rows first: the ``size`` ranks of a row are neighbours, so that they share a
    machine where they can.
    """

    size: int
    rank: int
    """Which span of the row is here."""
    _groups: dict[tuple[int, int], Group]

    @classmethod
    def open(
        cls,
        size: int,
        device: torch.device,
        traffic: Traffic,
        *,
        strided: bool = False,
        timeout: timedelta | None = None,
    ) -> SequenceMesh:
        """The mesh of this process; every process of the world calls it.

        Args:
            size: ranks of a row.
            device: where tensors live.
            traffic: counts what is sent.
            strided: also open the groups that Ulysses with a ring across needs.
            timeout: how long a rank waits for others; None is torch's own.
        """
        rank = dist.get_rank()
        groups: dict[tuple[int, int], Group] = {}
        for degree in divisors(size)[1:]:
            for stride in divisors(degree)[:-1] if strided else [1]:
                ranks, handle = _open(degree, stride, timeout)
                here = ranks.index(rank)
                groups[degree, stride] = Group(handle, here, len(ranks), device, traffic)
                # All ranks connect now: later, some may be silent when others first speak.
                dist.all_reduce(torch.zeros(1, device=device), group=handle)
        return cls(size, rank % size, groups)

    def block(self, degree: int) -> Group:
        """The ``degree`` neighbours that this rank is among."""
        return self._groups[degree, 1]

    def strided(self, degree: int, stride: int) -> Group:
        """Every ``stride``-th rank of that block, this rank among them."""
        return self._groups[degree, stride]


def processes_of_hosts(device: torch.device, *, untold: int) -> list[int]:
    """How many processes the host of each rank has, as launchers say; every rank calls this.

    Args:
        device: whose backend carries the answers.
        untold: what a rank answers that no launcher told.
    """
    here = torch.tensor([int(os.environ.get("LOCAL_WORLD_SIZE", untold))], device=device)
    everywhere = [torch.empty_like(here) for _ in range(dist.get_world_size())]
    dist.all_gather(everywhere, here)
    return [int(each) for each in everywhere]


def divisors(number: int) -> list[int]:
    """All divisors, in order."""
    return [n for n in range(1, number + 1) if number % n == 0]


def _open(degree: int, stride: int, timeout: timedelta | None) -> tuple[list[int], ProcessGroup]:
    """Open every group of this kind in the world, in one order; the one with this rank."""
    mine: tuple[list[int], ProcessGroup] | None = None
    for first in range(0, dist.get_world_size(), degree):
        for offset in range(stride):
            ranks = list(range(first + offset, first + degree, stride))
            handle = dist.new_group(ranks, timeout=timeout)
            if dist.get_rank() in ranks:
                assert isinstance(handle, ProcessGroup)
                mine = ranks, handle
    assert mine is not None
    return mine
