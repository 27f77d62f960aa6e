"""What the ranks of ``test_state_passing`` do: every carry, over hard rows, against one process."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from lmtrain.layout import SequenceLayout
from lmtrain.ops.gated_delta import GatedDelta
from lmtrain.ops.recurrence import act
from lmtrain.ops.ssd import ScalarDecay
from lmtrain.parallel.collectives import Traffic
from lmtrain.parallel.lasp2 import Lasp2
from lmtrain.parallel.mesh import SequenceMesh
from lmtrain.parallel.ulysses import ulysses
from lmtrain.parallel.zeco import Zeco

if TYPE_CHECKING:
    from collections.abc import Callable

    from lmtrain.ops.recurrence import Recurrence
    from lmtrain.parallel.collectives import Group

RULES: dict[str, Recurrence[Any, Any, Any]] = {"ssd": ScalarDecay(), "delta": GatedDelta()}
FIXTURES = {"plain": (16, 1.0), "negative eigenvalues": (32, 2.0)}
"""Key width, and the largest beta."""
TOKENS = {"plain": 32, "negative eigenvalues": 16}
"""Of a span, so that its transition is neither small nor symmetric."""
GROUPS, HEADS, VALUE = 2, 4, 10


def rows(length: int, world: int) -> dict[str, list[int]]:
    """Lengths of the documents of rows of ``world`` spans of ``length``."""
    n = length * world
    return {
        "one document": [n],
        "a document a rank": [length] * world,
        "equal documents": [length // 2] * (2 * world),
        "ragged": [3, length + 1, 1, 1, n - length - 9, 3],
        "long among short": [5, n - 12, 7],
        "starts on a border": [length, n - length - 1, 1],
        "starts on last tokens": [length - 1, n - length, 1],
        "single tokens": [1] * length + [n - length],
        "empty rank": [n - length, length],
    }


def inputs(rule: str, fixture: str, tokens: int) -> list[Tensor]:
    """Decays in [-0.01, 0] and keys of norm one: the past matters everywhere."""
    key, most = FIXTURES[fixture]
    draw = partial(torch.rand, generator=torch.Generator().manual_seed(tokens), dtype=torch.float64)
    q, k = (2 * draw(tokens, GROUPS, key) - 1 for _ in "qk")
    v = 2 * draw(tokens, HEADS, VALUE) - 1
    decay = -0.01 * draw(tokens, HEADS)
    given = [q, F.normalize(k, dim=-1), v, decay]
    return given if rule == "ssd" else [*given, most * draw(tokens, HEADS)]


class Portable:
    """The oracle: autograd through summaries, an all-gather and a fold; nothing hand-written."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def __call__(
        self, rule: Recurrence[Any, Any, Any], *given: Tensor, layout: SequenceLayout
    ) -> Tensor:
        state = rule.scan(given, layout)[1]
        move = _transition(rule, given, layout)
        moves, states = _gather(move, self.group), _gather(state, self.group)
        entering = torch.zeros_like(state)
        for j in range(self.group.rank):
            entering = act(moves[j], entering) + states[j]
        entering = entering + 0.0 * (moves.sum() + states.sum())  # backward runs on every rank
        return rule.scan(given, layout, entering)[0]


def _transition(
    rule: Recurrence[Any, Any, Any], given: tuple[Tensor, ...], layout: SequenceLayout
) -> Tensor:
    if isinstance(rule, ScalarDecay):
        return given[3].sum(0).exp() * float(layout.alive)
    q, k, v, decay, beta = given
    eye = torch.eye(k.shape[2], dtype=v.dtype).expand(v.shape[1], -1, -1)
    inside = SequenceLayout((0, len(layout) + 1), 1, len(layout) + 1)
    nothing = v.new_zeros(*v.shape[:2], k.shape[2])
    return rule.scan((q, k, nothing, decay, beta), inside, eye)[1] * float(layout.alive)


def _gather(x: Tensor, group: Group) -> Tensor:
    from torch.distributed.nn.functional import all_gather

    return torch.stack(all_gather(x.contiguous(), group=group.handle))


def kernels(group: Group) -> dict[str, Callable[..., Tensor]]:
    """Every way to run a recurrence over the ranks of a group."""

    def carried(carry: Any) -> Callable[..., Tensor]:
        return lambda rule, *given, layout: rule.scan(given, layout, carry=carry)[0]

    def by_heads(rule: Recurrence[Any, Any, Any], *given: Tensor, layout: SequenceLayout) -> Tensor:
        kernel = lambda *x, layout: rule.scan(x, layout)[0]  # noqa: E731
        return ulysses(kernel, *given, layout=layout, group=group)

    return {
        "lasp2": carried(Lasp2(group)),
        "zeco in one block": carried(Zeco(group, 1)),
        "zeco in three blocks": carried(Zeco(group, 3)),
        "ulysses": by_heads,
        "portable": Portable(group),
    }


def errors() -> dict[tuple[str, ...], float]:
    """The largest error of this rank in outputs and gradients, by (rule, fixture, row, kernel)."""
    world, rank = dist.get_world_size(), dist.get_rank()
    group = SequenceMesh.open(world, torch.device("cpu"), Traffic()).block(world)
    found: dict[tuple[str, ...], float] = {}
    for name, rule in RULES.items():
        for fixture, length in TOKENS.items():
            for row, lengths in rows(length, world).items():
                whole = SequenceLayout.of_lengths(lengths)
                given = inputs(name, fixture, whole.bounds[-1])
                out, grads, d_out = _one_process(rule, given, whole)
                span = slice(rank * length, (rank + 1) * length)
                for kernel, run in kernels(group).items():
                    mine = [x[span].clone().requires_grad_() for x in given]
                    here = run(rule, *mine, layout=whole.shard(rank, world))
                    ours = torch.autograd.grad(here, mine, d_out[span])
                    found[name, fixture, row, kernel] = max(
                        float((a - b[span]).abs().max() / b.abs().max())
                        for a, b in zip([here, *ours], [out, *grads], strict=True)
                    )
    return found


def _one_process(
    rule: Recurrence[Any, Any, Any], given: list[Tensor], layout: SequenceLayout
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    given = [x.clone().requires_grad_() for x in given]
    out = rule.scan(tuple(given), layout)[0]
    d_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return out.detach(), torch.autograd.grad(out, given, d_out), d_out
