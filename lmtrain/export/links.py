"""Tables between our tensors and those of another library, readable in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


class Rewrite(NamedTuple):
    """What happens to tensors on the way out, and its inverse; works on meta tensors too."""

    out: Callable[[Tensors], Tensors]
    back: Callable[[Tensors], Tensors]


@dataclass(frozen=True)
class Link:
    """Tensors of ours and of theirs that hold the same numbers; either side may have several."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    rewrite: Rewrite


SAME = Rewrite(lambda x: x, lambda x: x)


def link(ours: str, *theirs: str, rewrite: Rewrite = SAME) -> Link:
    """One tensor of ours; by default the same tensor under another name."""
    return Link((ours,), theirs, rewrite)


def within(ours: str, theirs: str, links: Iterable[Link]) -> Iterator[Link]:
    """The same links, below a prefix on each side."""
    for each in links:
        yield replace(
            each,
            ours=tuple(ours + name for name in each.ours),
            theirs=tuple(theirs + name for name in each.theirs),
        )


def rows(*sizes: int) -> Rewrite:
    """One matrix of ours holds the rows of several of theirs."""
    return Rewrite(
        lambda x: x[0].split(sizes),
        lambda x: (torch.cat(x),),
    )


CONV = Rewrite(
    lambda x: (x[0].T.unsqueeze(1).contiguous(),),
    lambda x: (x[0].squeeze(1).T.contiguous(),),
)
"""Taps of a depthwise convolution: ``[taps, c]`` here, ``[c, 1, taps]`` in torch's ``Conv1d``."""


def convolutions(*channels: int) -> Rewrite:
    """One convolution of ours over the channels of several of theirs."""
    return Rewrite(
        lambda x: CONV.out(x)[0].split(channels),
        lambda x: CONV.back((torch.cat(x),)),
    )


def scale(*, ours_centered: bool, theirs_centered: bool) -> Rewrite:
    """The weight of an RMSNorm, where ``1 + weight`` scales on a side that is zero-centred."""
    if ours_centered == theirs_centered:
        return SAME
    add = 1.0 if ours_centered else -1.0
    return Rewrite(lambda x: (x[0] + add,), lambda x: (x[0] - add,))


def gated_queries(heads: int, width: int, shared: int, *, gated: bool) -> Rewrite:
    """Rows ``q k v gate`` into a matrix whose rows are ``q, gate`` of each head, and ``k``, ``v``.

    Without a gate of ours, theirs gets rows of zeros: every gate is one half. `doubled` makes up.
    """
    inner = heads * width

    def out(x: Tensors) -> Tensors:
        q, k, v, gate = x[0].split([inner, shared, shared, inner if gated else 0])
        gate = gate if gated else torch.zeros_like(q)
        both = torch.stack([y.unflatten(0, (heads, width)) for y in (q, gate)], 1)
        return both.flatten(0, 2), k, v

    def back(x: Tensors) -> Tensors:
        both, k, v = x
        q, gate = (y.flatten(0, 1) for y in both.unflatten(0, (heads, 2, width)).unbind(1))
        return (torch.cat([q, k, v, gate] if gated else [q, k, v]),)

    return Rewrite(out, back)


DOUBLED = Rewrite(lambda x: (x[0] * 2,), lambda x: (x[0] / 2,))
HALVED = Rewrite(DOUBLED.back, DOUBLED.out)
"""Both exact in any binary floating point."""

COPIED = Rewrite(lambda x: (x[0], x[0]), lambda x: (x[0],))
"""One tensor that the other library holds twice."""


def filled(name: str, value: float, *shape: int) -> Link:
    """A tensor that we do not have and they must."""
    return Link((), (name,), Rewrite(lambda _: (torch.full(shape, value),), lambda _: ()))
