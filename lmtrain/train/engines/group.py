"""What engines of several processes have in common: their group, their sums, shared rows."""

from __future__ import annotations

import os
from time import sleep
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from lmtrain.parallel.collectives import Traffic
from lmtrain.parallel.mesh import Place, SequenceMesh, processes_of_hosts
from lmtrain.parallel.strategy import Strategy
from lmtrain.parallelize import share_rows
from lmtrain.planner import planner
from lmtrain.settings.engine import Precision
from lmtrain.train.engines.local import LocalEngine
from lmtrain.train.lost import LATE, leave

if TYPE_CHECKING:
    from datetime import timedelta

    from torch import Tensor

    from lmtrain.models.decoder import Decoder
    from lmtrain.parallel.config import ParallelConfig
    from lmtrain.settings.engine import EngineConfig


PARTING_SECONDS = 0.1
"""For gloo's threads to let go of the last tensors, which takes Python: a thread that comes when
the interpreter is about to end aborts the process."""


class GroupEngine(LocalEngine):
    """One of several processes: gloo on CPUs, nccl on GPUs."""

    def __init__(
        self, config: EngineConfig, parallel: ParallelConfig, *, timeout: timedelta | None = None
    ) -> None:
        super().__init__(config)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(self.device)
        self._joined = not dist.is_initialized()
        if self._joined:
            self._join(timeout)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.place = Place.of(self.rank, self.world, parallel.sequence)
        self._parallel, self._traffic, self._timeout = parallel, Traffic(), timeout

    def _join(self, timeout: timedelta | None) -> None:
        """Meet the other processes, or leave with a sentence."""
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, timeout=timeout)
        except dist.DistError as error:
            if not LATE.search(str(error)):
                raise
            place = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            patience = "within launch.timeout_seconds" if timeout else "in time"
            leave(*place, f"was not there {patience}", error)

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        dist.all_reduce(values)
        return values

    def sent(self) -> int:
        """What its traffic counted."""
        sent, self._traffic.sent = self._traffic.sent, 0
        return sent

    def close(self) -> None:
        """Leave the process group, unless somebody else opened it."""
        if self._joined:
            sleep(PARTING_SECONDS)
            dist.destroy_process_group()

    def _share_rows(self, model: Decoder) -> None:
        """Let neighbours hold rows together, whoever holds the parameters."""
        sequence = self._parallel.sequence
        if sequence == 1:
            return
        choosers = planner(
            model.config,
            self._parallel,
            device=self.device.type,
            ranks_per_host=self._ranks_per_host(),
            element=2 if self.config.precision is Precision.bf16 else 4,
        )
        strided = self._parallel.may_use(Strategy.usp, choosers)
        mesh = SequenceMesh.open(
            sequence, self.device, self._traffic, strided=strided, timeout=self._timeout
        )
        share_rows(model, choosers, mesh)

    def _ranks_per_host(self) -> int:
        """Processes of each host, on which all that share a row must agree to choose alike.

        Raises:
            ValueError: hosts differ.
        """
        found = processes_of_hosts(self.device, untold=self.world)
        if len(set(found)) > 1:
            raise ValueError(
                f"hosts have different numbers of processes ({found[self.rank]} on that of process "
                f"{self.rank}), which parallel.sequence={self._parallel.sequence} cannot share "
                "rows over: start equally many on each"
            )
        return found[self.rank]
