"""`lmtrain inspect`: what a composed run costs on given machines, before any run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group

from lmtrain.config import InspectConfig, require
from lmtrain.data.sources import open_data
from lmtrain.inspect import plan, scale
from lmtrain.inspect.case import Case
from lmtrain.inspect.hardware import find
from lmtrain.inspect.model import table
from lmtrain.inspect.strategies import describe, planned
from lmtrain.train.teacher import teacher_model

if TYPE_CHECKING:
    from lmtrain.data.config import DataConfig


def inspect(config: InspectConfig) -> Group:
    """One page: the model, what a rank holds, where the time goes, strategies, advice.

    With ``scale``, also how the run scales, as a table and a plot.

    Raises:
        ValueError: the configuration has problems, or a file cannot be read.
    """
    case = case_of(config)
    parts = [table(case), *plan.tell(case)]
    if case.config.parallel.sequence > 1:
        parts.append(describe(planned(case), case.config.parallel.sequence))
    if config.scale:
        parts += scale.tell(case, config.worlds, config.out)
    return Group(*parts)


def case_of(config: InspectConfig) -> Case:
    """The run that a configuration describes, on its machines.

    Raises:
        ValueError: the configuration has problems, or a file cannot be read.
    """
    require(config.check_hardware())
    sections = config.curriculum, config.data, config.optim, config.train
    require([*config.check_model(), *(p for section in sections for p in section.check())])
    config = config.resolved(config.model.vocab_size or _vocabulary(config.data))  # type: ignore[assignment]
    hardware = find(config)
    smallest = max(config.launch.nproc, config.parallel.sequence)
    world = config.world or (config.nodes or 0) * hardware.links.ranks_per_host or smallest
    require(
        [
            *config.parallel.check(world),
            *config.engine.holding(world),
            *config.check_zero(world),
        ]
    )
    distill = config.distill.check(weights=config.run.weights, engine=config.engine, world=world)
    require([*distill, *([] if config.budget.said else config.check_steps())])
    case = Case(config, hardware, world, config.curriculum.max_length, teacher_model(config))
    if not case.possible:
        raise ValueError(
            f"train.tokens_per_step={config.train.tokens_per_step} does not cut into {case.rows} "
            f"rows of whole documents of curriculum.max_length={case.length} tokens, "
            f"train.accumulate={config.train.accumulate} times: make it a multiple of "
            f"{case.rows * case.length * config.train.accumulate}"
        )
    return case


def _vocabulary(data: DataConfig) -> int:
    """Token ids of the data; the embedded corpus is not made for that."""
    embedded = data.source == "stdlib" and not data.sources
    return data.vocab_size if embedded else open_data(data).vocab_size
