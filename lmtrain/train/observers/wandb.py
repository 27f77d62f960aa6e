"""Reports to Weights & Biases."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import wandb

from lmtrain.config import flat
from lmtrain.train.report import values

if TYPE_CHECKING:
    from lmtrain.config import RunConfig
    from lmtrain.train.report import Report


class Wandb:
    """Sends the reports to Weights & Biases; a continued run continues there too.

    Raises:
        ValueError: there is no key, or no way there.
    """

    def __init__(self, config: RunConfig) -> None:
        folder = Path(config.run.dir, "wandb")
        folder.mkdir(exist_ok=True)
        identity = folder / "id"
        if not identity.exists():
            identity.write_text(os.urandom(4).hex())
        try:
            self._run = wandb.init(
                project=config.logging.wandb_project,
                name=config.run.dir,
                dir=config.run.dir,
                mode=config.logging.wandb_mode.value,
                id=identity.read_text(),
                resume="allow",
                config=flat(config),
            )
        except wandb.Error as error:
            raise ValueError(
                f"logging.wandb=true cannot begin ({error}): run `wandb login`, or say "
                "logging.wandb_mode=offline"
            ) from error

    def __call__(self, report: Report) -> None:
        """Log its values; lines for a person are left out."""
        if not isinstance(report, str):
            self._run.log(values(report), step=report.step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()
