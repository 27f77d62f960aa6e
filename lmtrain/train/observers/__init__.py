"""Who listens to a run. Observers get reports, return nothing, and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lmtrain.train.observers.metrics import Metrics
from lmtrain.train.observers.terminal import terminal

if TYPE_CHECKING:
    from lmtrain.config import RunConfig
    from lmtrain.train.report import Report


class Observer(Protocol):
    """Someone who listens to a run; only rank 0 has any."""

    def __call__(self, report: Report) -> None:
        """Hear a report."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class Everyone:
    """Passes every report on to several observers; to none on the other ranks."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def __call__(self, report: Report) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer(report)

    def close(self) -> None:
        """Close them in turn."""
        for observer in self._observers:
            observer.close()


def observers(config: RunConfig, *, rank: int, first_step: int) -> Everyone:
    """Those who listen to this run."""
    return Everyone() if rank else Everyone(*_chosen(config, first_step))


def _chosen(config: RunConfig, first_step: int) -> list[Observer]:
    folder, logging = Path(config.run.dir), config.logging
    chosen: list[Observer] = [
        Metrics(folder / "metrics.jsonl"),
        terminal(logging.every, first_step=first_step, steps=config.train.steps),
    ]
    if logging.wandb:
        from lmtrain.train.observers.wandb import Wandb

        chosen.append(Wandb(config))
    if logging.tensorboard:
        from lmtrain.train.observers.tensorboard import Tensorboard

        chosen.append(Tensorboard(folder / "tensorboard", first_step=first_step))
    return chosen
