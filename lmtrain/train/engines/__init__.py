"""Engines: who holds parameters, gradients and optimizer state, and how sums cross processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmtrain.settings.engine import EngineKind
from lmtrain.train.engines.base import Engine
from lmtrain.train.engines.local import LocalEngine, choose_device

if TYPE_CHECKING:
    from datetime import timedelta

    from lmtrain.parallel.config import ParallelConfig
    from lmtrain.settings.engine import EngineConfig

__all__ = ["Engine", "LocalEngine", "choose_device", "open_engine"]


def open_engine(
    config: EngineConfig, parallel: ParallelConfig, *, world: int, timeout: timedelta | None = None
) -> Engine:
    """The engine for ``world`` processes; with several, joins their group.

    ``timeout`` is how long a process waits for another one; None is torch's own.
    """
    if world == 1:
        return LocalEngine(config)
    match config.kind:
        case EngineKind.fsdp:
            from lmtrain.train.engines.fsdp import FsdpEngine as GroupEngine
        case EngineKind.ddp:
            from lmtrain.train.engines.ddp import DdpEngine as GroupEngine
        case EngineKind.deepspeed:
            from lmtrain.train.engines.deepspeed import DeepSpeedEngine as GroupEngine
    return GroupEngine(config, parallel, timeout=timeout)
