"""DDP: every process holds all, and sums its gradients with the others' while it computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from lmtrain.train.engines.group import GroupEngine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import timedelta

    import torch
    from torch import Tensor
    from torch.futures import Future

    from lmtrain.batch import Batch
    from lmtrain.models.decoder import Decoder
    from lmtrain.parallel.config import ParallelConfig
    from lmtrain.settings.engine import EngineConfig


class DdpEngine(GroupEngine):
    """torch's DistributedDataParallel, whose buckets are summed instead of averaged."""

    def __init__(
        self, config: EngineConfig, parallel: ParallelConfig, *, timeout: timedelta | None = None
    ) -> None:
        super().__init__(config, parallel, timeout=timeout)
        self.copies = self.world

    def attach(
        self,
        model: Decoder,
        optimizer: torch.optim.Optimizer,  # noqa: ARG002
        *,
        partial: bool = False,
    ) -> None:
        """Let gradients be summed as soon as a bucket of them is there."""
        self._ddp = DistributedDataParallel(
            model,
            init_sync=False,  # every process drew the same weights
            gradient_as_bucket_view=True,
            find_unused_parameters=partial,
        )
        self._ddp.register_comm_hook(None, _sum)

    def parts(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        """The parts; gradients cross processes with the last one only."""
        for batch in batches[:-1]:
            with self._ddp.no_sync():
                yield batch
        yield batches[-1]

    def forward(self, model: Decoder, batch: Batch, **more: Any) -> Any:
        """The losses of a part, or what a lesson makes of the model."""
        if model is not self._ddp.module:  # a teacher, which has no gradients
            return super().forward(model, batch, **more)
        return self._ddp(batch.tokens, batch.layout, batch.targets, **more)

    def close(self) -> None:
        """Leave the process group.

        DDP's reducer goes first: as the last to hold the group it would wait for gloo's threads,
        which wait for Python.
        """
        self.__dict__.pop("_ddp", None)
        super().close()


def _sum(_, bucket):
    """A future of the sum; without annotations, as DDP compares them with types, not with text."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(_value)


def _value(done: Future[list[Tensor]]) -> Tensor:
    return done.value()[0]
