"""How long the steps of a run take, measured before the first one; what ``budget.hours`` pays for.

A measurement makes whole updates, on the processes, with the engine and over the data that the run
will use: forward, backward, gradients and their norm across processes, the optimizer. They are made
at a learning rate of 0, and what the optimizer remembers of them is forgotten, so the run begins as
if nothing had been measured.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch

from lmtrain.data.cells import bucket_name
from lmtrain.train.device import wait
from lmtrain.train.opening import open_run
from lmtrain.train.spend import Pace, spent
from lmtrain.train.steps import add_gradients
from lmtrain.train.tensors import forget

if TYPE_CHECKING:
    from lmtrain.data.bucket import Draw
    from lmtrain.data.plan import Plan
    from lmtrain.models.decoder import Decoder
    from lmtrain.train.engines import Engine
    from lmtrain.train.objective import Objective
    from lmtrain.train.opening import Opened

LAPS = 3
"""Updates of each length that are timed, after one that warms up; their median counts."""


class Rehearsal:
    """The first batches of every bucket of a plan, in turn, instead of those that its steps draw.

    Windows that open while a run goes on are open.
    """

    def __init__(self, plan: Plan) -> None:
        self.tokens_per_step, self.lengths = plan.tokens_per_step, plan.lengths
        self._plan = plan

    def __len__(self) -> int:
        """Batches."""
        return len(self.lengths) * (1 + LAPS)

    def __getitem__(self, step: int) -> Draw:
        """A global batch."""
        number, ordinal = divmod(step, 1 + LAPS)
        bucket, mix = self._plan.buckets[number], self._plan.mixture.mixes[number]
        count = self.tokens_per_step // bucket.length
        return bucket.draw(mix.pieces(ordinal * count + np.arange(count)))


def measure(
    opened: Opened,
    engine: Engine,
    model: Decoder,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
) -> Pace:
    """The pace of a run that has made no step, which it leaves as it was.

    Every process calls this, and gets the same: the slowest process decides.

    Raises:
        ValueError: a gradient is not finite.
    """
    rehearsal, config = Rehearsal(opened.plan), opened.config
    found = torch.zeros(engine.world, len(rehearsal), dtype=torch.float64, device=engine.device)
    with opened.loader(engine, rehearsal, range(len(rehearsal))) as loader:
        started = perf_counter()
        for step, batches in enumerate(loader):
            add_gradients(0, batches, rehearsal.tokens_per_step, model, objective, engine)
            try:
                engine.step(optimizer, lr=0.0, clip=config.optim.clip)
            except FloatingPointError as error:
                raise ValueError(
                    f"budget.hours={config.budget.hours:g} cannot be measured, as {error}: say "
                    "budget.tokens or train.steps"
                ) from error
            wait(engine.device)
            now = perf_counter()
            found[engine.rank, step], started = now - started, now
    forget(optimizer)
    engine.sent()
    laps = engine.total(found).cpu().amax(0).view(-1, 1 + LAPS)[:, 1:]
    names = map(bucket_name, opened.plan.buckets)
    return Pace(dict(zip(names, laps.median(1).values.tolist(), strict=True)))


def paced(
    opened: Opened,
    engine: Engine,
    model: Decoder,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
) -> tuple[Opened, list[str]]:
    """The same run with the steps that ``budget.hours`` pays for, and what was measured for that.

    Every process calls this; a run that knows its steps is returned as it is.
    """
    if not opened.undecided:
        return opened, []
    said = f"budget.hours={opened.config.budget.hours:g}"
    if engine.rank == 0:
        lengths = ", ".join(map(str, opened.plan.lengths))
        print(f"{said}: timing updates over pieces of {lengths} tokens", flush=True)
    pace = measure(opened, engine, model, optimizer, objective)
    opened = open_run(opened.config, opened.damaged, pace)
    steps = opened.config.train.steps
    end = datetime.now(UTC) + timedelta(seconds=spent(opened.plan, steps, pace.of))
    return opened, [
        f"a step takes {pace}",
        f"{said} pays for {steps:,} steps, until about {end:%Y-%m-%d %H:%M} UTC; validation, "
        "checkpoints, samples and scores come on top",
    ]
