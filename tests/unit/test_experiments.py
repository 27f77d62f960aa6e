"""Every shipped experiment composes, and asks for the numbers that its claims are about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import pytest
from omegaconf import OmegaConf

from lmtrain.config import RunConfig, compose, config_dir, flat

if TYPE_CHECKING:
    from pathlib import Path

EXPERIMENTS = sorted((config_dir() / "experiment").glob("*.yaml"))

KINDS = {
    "answers": "task",
    "rows": "task",
    "text_loss": "text",
    "place_loss": "text",
    "states": "states",
    "context_loss": "context",
}
"""What ``scores.what`` must ask for a measure."""


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_measures_what_it_claims(path: Path) -> None:
    config = compose([f"+experiment={path.stem}"])
    assert config.check(world_size=1) == []
    assert config.run.dir == f"runs/study/{path.stem}"
    varied = swept(path)
    assert "run.seed" in varied
    assert config.findings
    for claim in config.findings:
        for measure in filter(None, (claim.measure, claim.than_measure)):
            assert is_measured(measure, config), measure
        for side in (claim.of, claim.than):
            for key, value in side.items() if isinstance(side, Mapping) else ():
                assert key in flat(config), key
                assert key not in varied or str(value) in varied[key], (key, value)


def swept(path: Path) -> dict[str, list[str]]:
    """The values of each key that varies."""
    params: Any = OmegaConf.to_container(cast("Any", OmegaConf.load(path)).hydra.sweeper.params)
    return {key: str(values).split(",") for key, values in params.items()}


def is_measured(measure: str, config: RunConfig) -> bool:
    name, _, place = measure.partition("@")
    if name not in KINDS:
        return True
    task = config.data.task
    lengths = task.lengths if task.name else config.curriculum.lengths
    asked = int(place.partition(":")[0]) in (config.scores.lengths or lengths)
    return asked and KINDS[name] in config.scores.what
