"""Who hears of a run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec

from lmtrain.settings.checks import positive


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

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        absent = "logging.wandb=true, but wandb is not installed: pip install 'lmtrain[wandb]'"
        return [
            *positive({"logging.every": self.every}),
            *([absent] if self.wandb and not find_spec("wandb") else []),
        ]
