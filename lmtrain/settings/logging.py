"""Who hears of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec

from lmtrain.settings.checks import positive
from lmtrain.settings.engine import EngineKind


class WandbMode(StrEnum):
    """Whether wandb sends its log now or keeps it for ``wandb sync``."""

    online = "online"
    offline = "offline"


@dataclass(kw_only=True)
class LoggingSection:
    """Who hears of the run. ``metrics.jsonl`` always has every step."""

    every: int = 10
    """Steps between printed lines when the output is not a terminal."""
    wandb: bool = False
    """Also log to Weights & Biases."""
    wandb_project: str = "lmtrain"
    """Project there."""
    wandb_mode: WandbMode = WandbMode.online
    """offline needs no network."""
    tensorboard: bool = False
    """Also write TensorBoard's event files, into ``tensorboard/`` of the run."""
    norms_every: int | None = None
    """Steps between norms of gradients, parameters, activations and recurrent states, for each
    block; each costs a forward pass without gradients. null never measures them."""
    profile: str | None = None
    """FIRST:COUNT profiles so many steps from that one on: a trace for each process, in
    ``profile/`` of the run; null profiles nothing."""
    report: bool = True
    """Write ``report.html`` at the end of the run; ``lmtrain report`` writes it at any time."""

    @property
    def profiled(self) -> range:
        """The steps that ``profile`` means, counted from 1.

        Raises:
            ValueError: it means none.
        """
        if self.profile is None:
            return range(0)
        found = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", self.profile)
        if found is None:
            raise ValueError(
                f"logging.profile={self.profile} is not FIRST:COUNT: say 100:3 for steps 100 to 102"
            )
        first, count = map(int, found.groups())
        return range(first, first + count)

    def check(self, kind: EngineKind = EngineKind.fsdp) -> list[str]:
        """Every problem, each a sentence with key, value and remedy, for a ``kind`` of engine."""
        hidden = [
            f"logging.norms_every={self.norms_every} reads gradients, which DeepSpeed keeps to "
            "itself: say engine.kind=fsdp, or logging.norms_every=null"
        ]
        return [
            *positive({"logging.every": self.every, "logging.norms_every": self.norms_every}),
            *_absent("wandb", wanted=self.wandb),
            *_absent("tensorboard", wanted=self.tensorboard),
            *self._window(),
            *(hidden if self.norms_every and kind is EngineKind.deepspeed else []),
        ]

    def check_steps(self, steps: int, decided: str) -> list[str]:
        """What ends after the ``steps`` of the run, whose number is ``decided`` by a key."""
        if not self.profile or self._window() or max(self.profiled, default=0) <= steps:
            return []
        return [f"logging.profile={self.profile} ends after {decided}: choose earlier steps"]

    def _window(self) -> list[str]:
        try:
            _ = self.profiled
        except ValueError as error:
            return [str(error)]
        return []


def _absent(package: str, *, wanted: bool) -> list[str]:
    if not wanted or find_spec(package):
        return []
    return [
        f"logging.{package}=true, but {package} is not installed: pip install 'lmtrain[{package}]'"
    ]
