"""What the ranks of ``test_compiled`` do: compiled blocks, shared rows, sharded parameters."""

from __future__ import annotations

from typing import NamedTuple

import shared_rows
import torch
import torch.distributed as dist
from shared_rows import SPAN, Case
from state_passing import rows
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import OffloadPolicy
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lmtrain.compilation import compile_blocks
from lmtrain.layout import SequenceLayout
from lmtrain.parallel.collectives import Traffic
from lmtrain.parallelize import rematerialize
from lmtrain.settings.engine import Precision, Remat
from lmtrain.train.engines.fsdp import shard


class Found(NamedTuple):
    """What a rank found out about a row."""

    error: float
    """The largest relative one, of logits and gradients."""
    graphs: int
    """Compiled until then."""
    sent: int
    """Bytes to those that share the row."""


def compare(remat: Remat) -> dict[str, Found]:
    """Every row in turn against one process that compiles nothing."""
    mesh = shared_rows.open_mesh(traffic := Traffic())
    case, found = Case("GA", (("G", "zeco"), ("A", "ring"))), dict[str, Found]()
    model = shared_rows.parallel(case, mesh)
    rematerialize(model, remat)
    compiler = compile_blocks(model, "aot_eager")
    ranks = init_device_mesh("cpu", (dist.get_world_size(),))
    shard(model, ranks, offload=OffloadPolicy(), gather=Precision.fp32)
    for name, lengths in rows(SPAN, mesh.size).items():
        whole = SequenceLayout.of_lengths(lengths)
        layout = whole.shard(mesh.rank, mesh.size)
        span, traffic.sent = slice(layout.start, layout.stop), 0
        tokens, targets = shared_rows.text(whole.bounds[-1])
        expected = shared_rows.run(shared_rows.build(case), tokens, targets, whole)
        expected = [x[span] for x in expected[:2]] + expected[2:]
        actual = shared_rows.run(model, tokens[span], targets[span], layout)
        sent = traffic.sent
        actual = [x.full_tensor() if isinstance(x, DTensor) else x for x in actual]
        error = max(
            float((a - b).abs().max() / b.abs().max().clamp(min=1e-3))
            for a, b in zip(actual, expected, strict=True)
        )
        found[name] = Found(error, compiler.graphs, sent)
        model.zero_grad()
    torch._dynamo.reset()
    return found


def replicas() -> tuple[float, int, int]:
    """Each process a row of its own, all of them a copy of the model (DDP).

    Returns:
        The largest relative error of a gradient, and graphs after the first and the last packing.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    case, graphs, worst = Case("GA", ()), list[int](), 0.0
    model = shared_rows.build(case)
    compiler = compile_blocks(model, "aot_eager")
    ddp = DistributedDataParallel(model)
    for lengths in ([32], [16, 16], [3, 28, 1]):
        layout, total = SequenceLayout.of_lengths(lengths), world * sum(lengths)
        tokens, targets = shared_rows.text(total)
        alone = shared_rows.build(case)
        for part in range(world):
            span = slice(part * sum(lengths), (part + 1) * sum(lengths))
            alone(tokens[span], layout, targets[span]).total.div(world).backward()
            if part == rank:
                ddp(tokens[span], layout, targets[span]).total.backward()
        graphs.append(compiler.graphs)
        for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
            assert ours.grad is not None
            assert theirs.grad is not None
            floor = theirs.grad.abs().max().clamp(min=1e-3)
            worst = max(worst, float((ours.grad - theirs.grad).abs().max() / floor))
        model.zero_grad()
    torch._dynamo.reset()
    return worst, graphs[0], graphs[-1]
