"""Hard inputs for whole backends, and what the ranks of ``test_backend`` do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from cards import DEVICE
from torch import Tensor

from lmtrain.layout import SequenceLayout
from lmtrain.ops.backend import TORCH, operations
from lmtrain.ops.config import Backend
from lmtrain.ops.recurrence import AffineState
from lmtrain.parallel.collectives import Traffic
from lmtrain.parallel.lasp2 import Lasp2
from lmtrain.parallel.mesh import SequenceMesh
from lmtrain.parallel.zeco import Zeco

if TYPE_CHECKING:
    from collections.abc import Callable

    from lmtrain.ops.recurrence import Recurrence

GROUPS, HEADS, KEY, VALUE = 1, 2, 16, 24
LAYOUTS = {
    "equal documents": SequenceLayout.of_lengths([20, 20]),
    "ragged": SequenceLayout.of_lengths([1, 66, 3]),
    "continues": replace(SequenceLayout.of_lengths([30, 40]), start=10, stop=60),
    "inside": replace(SequenceLayout.of_lengths([200]), start=50, stop=120),
}
ROWS = {"one document": [80], "ragged": [3, 38, 1, 36, 2]}


def rule(backend: Backend, name: str) -> Recurrence[Any, Any, Any]:
    return getattr(operations(backend), name)


def inputs(name: str, tokens: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Keys of norm one, decays near zero, so that the past matters."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(tokens), dtype=dtype)
    q, k = (draw(tokens, GROUPS, KEY) for _ in "qk")
    v, decay = draw(tokens, HEADS, VALUE), -0.02 * draw(tokens, HEADS).abs()
    given = [q, F.normalize(k, dim=-1), v, decay]
    return given if name == "ssd" else [*given, 2 * draw(tokens, HEADS).sigmoid()]


def error(a: Tensor, b: Tensor) -> float:
    """Relative, and infinite for what is not a number."""
    wrong = ((a.cpu().double() - b.double()).norm() / b.double().norm().clamp(min=1e-6)).item()
    return wrong if wrong < float("inf") else float("inf")


@dataclass
class Given:
    """A carry that brings a state, and the gradient of the one that leaves; asks for summaries."""

    state: Tensor
    d_final: Tensor
    summary: AffineState | None = None
    cosummary: Tensor | None = None

    def enter(self, layout: Any, empty: Any, summarize: Callable[[], AffineState]) -> Any:  # noqa: ARG002
        self.summary = summarize()
        return lambda: (self.state, None)

    def leave(self, layout: Any, empty: Any, kept: Any, cosummarize: Callable[[], Tensor]) -> Any:  # noqa: ARG002
        self.cosummary = cosummarize()
        return lambda: self.d_final


def errors(length: int = 40) -> dict[tuple[str, ...], float]:
    """The largest error of this rank in outputs and gradients, by (rule, row, carry)."""
    world, rank = dist.get_world_size(), dist.get_rank()
    group = SequenceMesh.open(world, torch.device("cpu"), Traffic()).block(world)
    found: dict[tuple[str, ...], float] = {}
    for name in ("ssd", "gated_delta"):
        for row, lengths in ROWS.items():
            whole = SequenceLayout.of_lengths(lengths)
            given = [x.requires_grad_() for x in inputs(name, whole.bounds[-1], torch.float64)]
            out = getattr(TORCH, name).scan(tuple(given), whole)[0]
            d_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).double()
            grads = torch.autograd.grad(out, given, d_out)
            span = slice(rank * length, (rank + 1) * length)
            for carry, kind in {"lasp2": Lasp2(group), "zeco": Zeco(group, 3)}.items():
                mine = [x[span].detach().float().requires_grad_() for x in given]
                layout = whole.shard(rank, world)
                here = rule(Backend.triton, name).scan(tuple(mine), layout, carry=kind)[0]
                ours = torch.autograd.grad(here, mine, d_out[span].float())
                found[name, row, carry] = max(
                    error(a.detach(), b[span].detach())
                    for a, b in zip([here, *ours], [out, *grads], strict=True)
                )
    return found


def on_card(tensors: list[Tensor]) -> list[Tensor]:
    return [x.to(DEVICE).requires_grad_() for x in tensors]
