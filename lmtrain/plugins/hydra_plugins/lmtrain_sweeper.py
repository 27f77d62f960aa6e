"""Hydra's sweeper of ``lmtrain train -m``: found by Hydra because it lies in this folder.

It must import nothing heavy: Hydra reads it at the start of every verb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher
    from hydra.types import HydraContext, TaskFunction


# Values by key, as on the command line, whose words win: ``hydra.sweeper.params``.
SCHEMA = {"_target_": "hydra_plugins.lmtrain_sweeper.LmtrainSweeper", "params": {}}
ConfigStore.instance().store(group="hydra/sweeper", name="lmtrain", node=SCHEMA)


class LmtrainSweeper(Sweeper):
    """Every combination of values, each a run in a folder of its own; see `lmtrain.sweep`."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = {key: value for key, value in params.items() if value is not None}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra composed, and its launcher: basic, joblib, submitit, any."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run every point and tell what became of each.

        Raises:
            ValueError: nothing varies, or two points are one, or another sweep has the folder.
            SystemExit: a signal stopped it, or a point failed.
        """
        from lmtrain.sweep import Sweep, spread

        assert self.hydra_context
        assert self.config
        launcher = cast("Launcher", self.launcher)

        said = [f"{key}={value}" for key, value in self.params.items()]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        choices = self.config.hydra.runtime.choices
        sweep = Sweep(
            folder=self.config.hydra.sweep.dir,
            points=spread(parser.parse_overrides([*said, *arguments]), named=self.params),
            words=arguments,
            experiment=OmegaConf.select(choices, "experiment"),
            preset=OmegaConf.select(choices, "sweep"),
        )
        batch = [point.overrides for point in sweep.points]
        self.validate_batch_is_legal(batch)
        sweep.run(
            lambda: launcher.launch(batch, initial_job_idx=0),
            aside=not isinstance(launcher, BasicLauncher),
        )
