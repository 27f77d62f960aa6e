"""What the ranks of one row say to each other: every message in one place, every byte counted.

A method starts its messages and returns a function that waits for them, so that callers can compute
meanwhile. Tensors are copied to contiguous buffers first: a collective reads memory, not strides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

Spec: TypeAlias = "tuple[tuple[int, ...], torch.dtype]"
"""Shape and dtype of a tensor to be received."""

T = TypeVar("T")

# torch 2.13 renamed them and warns of the old names.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

ALIGNMENT = 8
"""Bytes that a packed tensor starts at a multiple of, so that it can be viewed in its dtype."""


@dataclass
class Traffic:
    """Bytes that this process sent to others."""

    sent: int = 0


@dataclass(frozen=True)
class Group:
    """Ranks that hold consecutive spans of a row, in their order."""

    handle: ProcessGroup
    rank: int
    size: int
    device: torch.device
    traffic: Traffic

    def all_gather(self, x: Tensor) -> Callable[[], Tensor]:
        """``[size, *x.shape]``: the tensors of all ranks, which have one shape."""
        x = x.contiguous()
        out = x.new_empty(self.size, *x.shape)
        self.traffic.sent += (self.size - 1) * x.nbytes
        work = _all_gather(out.flatten(), x.flatten(), group=self.handle, async_op=True)
        return lambda: self._wait([work], out)

    def reduce_scatter(self, x: Tensor) -> Callable[[], Tensor]:
        """The sum over all ranks of their ``x[rank]``; ``x [size, …]``."""
        x = x.contiguous()
        out = torch.empty_like(x[0])
        self.traffic.sent += (self.size - 1) * out.nbytes
        work = _reduce_scatter(out.flatten(), x.flatten(), group=self.handle, async_op=True)
        return lambda: self._wait([work], out)

    def all_to_all(
        self, sends: Sequence[Sequence[Tensor]], receives: Sequence[Sequence[Spec]]
    ) -> Callable[[], list[list[Tensor]]]:
        """Several tensors to and from every rank, in one collective.

        Args:
            sends: for each rank the tensors it gets.
            receives: for each rank what comes from it, as both sides know without asking.
        """
        packed = [pack(tensors) for tensors in sends]
        sizes = [packed_size(specs) for specs in receives]
        outgoing = torch.cat(packed).to(self.device)
        incoming = outgoing.new_empty(sum(sizes))
        self.traffic.sent += outgoing.nbytes - packed[self.rank].nbytes
        work = dist.all_to_all_single(
            incoming, outgoing, sizes, [len(x) for x in packed], group=self.handle, async_op=True
        )

        def wait() -> list[list[Tensor]]:
            parts = self._wait([work], incoming).split(sizes)
            return [unpack(part, specs) for part, specs in zip(parts, receives, strict=True)]

        return wait

    def exchange(
        self,
        sends: Sequence[tuple[int, Sequence[Tensor]]],
        receives: Sequence[tuple[int, Sequence[Spec]]],
    ) -> Callable[[], list[list[Tensor]]]:
        """Messages to and from single ranks, the tensors of each packed into one.

        Args:
            sends: pairs of a rank and the tensors it gets.
            receives: pairs of a rank and what comes from it; each has a matching send.

        Returns:
            A function that gives the tensors of every message of ``receives``.
        """
        buffers = [
            torch.empty(packed_size(specs), dtype=torch.uint8, device=self.device)
            for _, specs in receives
        ]
        messages = [(peer, pack(tensors)) for peer, tensors in sends]
        self.traffic.sent += sum(message.nbytes for _, message in messages)
        arriving = [(peer, b) for (peer, _), b in zip(receives, buffers, strict=True)]
        operations = [
            dist.P2POp(act, buffer, group=self.handle, group_peer=peer)
            for act, pairs in ((dist.irecv, arriving), (dist.isend, messages))
            for peer, buffer in pairs
            if len(buffer)
        ]
        works = dist.batch_isend_irecv(operations) if operations else []

        def wait() -> list[list[Tensor]]:
            self._wait(works, messages)  # which are held until they have left
            return [unpack(b, specs) for b, (_, specs) in zip(buffers, receives, strict=True)]

        return wait

    def hand_on(
        self, step: int, leaving: Tensor | None, coming: Tensor | None
    ) -> Callable[[], Tensor | None]:
        """Give ``leaving`` to the rank ``step`` on, get one like ``coming`` from as far before.

        In one exchange, so that neither waits for the other; each may be missing.
        """
        wait = self.exchange(
            [] if leaving is None else [(self.rank + step, [leaving])],
            [] if coming is None else [(self.rank - step, [spec(coming)])],
        )
        return lambda: next((x for (x,) in wait()), None)

    def send(self, rank: int, x: Tensor) -> Callable[[], object]:
        """One tensor to one rank."""
        return self.exchange([(rank, [x])], [])

    def receive(self, rank: int, like: Tensor) -> Callable[[], Tensor]:
        """One tensor of the shape and dtype of ``like`` from one rank."""
        wait = self.exchange([], [(rank, [spec(like)])])
        return lambda: wait()[0][0]

    def _wait(self, works: Sequence[Any], result: T) -> T:
        for work in works:
            work.wait()
        return result


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """One uint8 vector of tensors of any dtypes and strides."""
    parts = []
    for x in tensors:
        data = x.contiguous().flatten().view(torch.uint8)
        parts.append(F.pad(data, (0, -len(data) % ALIGNMENT)))
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)


def packed_size(specs: Sequence[Spec]) -> int:
    """Bytes of tensors of these shapes and dtypes, packed."""
    sizes = [prod(shape) * dtype.itemsize for shape, dtype in specs]
    return sum(size + -size % ALIGNMENT for size in sizes)


def unpack(buffer: Tensor, specs: Sequence[Spec]) -> list[Tensor]:
    """The tensors in a packed vector, as views of it."""
    tensors, at = [], 0
    for shape, dtype in specs:
        size = prod(shape) * dtype.itemsize
        tensors.append(buffer[at : at + size].view(dtype).view(shape))
        at += size + -size % ALIGNMENT
    return tensors


def spec(x: Tensor) -> Spec:
    """Shape and dtype."""
    return tuple(x.shape), x.dtype
