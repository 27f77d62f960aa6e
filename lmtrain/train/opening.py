"""What a run needs before it can train: data, plan, folder, and the checkpoint it goes on from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lmtrain.config import RunConfig, require
from lmtrain.data.cells import Supply
from lmtrain.data.loader import Loader
from lmtrain.data.plan import Plan
from lmtrain.data.sources import Corpus, open_data, open_validation
from lmtrain.data.tokenize import prompt_ids
from lmtrain.data.validations import Validations
from lmtrain.train.checkpoint import State, naming
from lmtrain.train.folder import RunFolder
from lmtrain.train.invariants import check_checkpoint, check_same_start
from lmtrain.train.spend import Pace, affordable
from lmtrain.train.start import find_weights
from lmtrain.train.teacher import Teacher, find_teacher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lmtrain.data.loader import Draws
    from lmtrain.data.replan import Past
    from lmtrain.train.engines import Engine


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Everything a run needs, found to fit together."""

    config: RunConfig
    """Resolved: the model's vocabulary is decided."""
    store: Corpus
    plan: Plan
    validations: Validations
    folder: RunFolder
    start: tuple[Path, State] | None
    """The checkpoint to continue from."""
    damaged: dict[Path, str] = field(default_factory=dict["Path", str])
    """What is wrong with newer checkpoints."""
    weights: Path | None = None
    """The checkpoint that a new run takes its first values from."""
    teacher: Teacher | None = None
    pace: Pace | None = None
    """How long its steps take, under ``budget.hours``; None before that is measured."""

    @property
    def undecided(self) -> bool:
        """Whether the number of steps waits for a measurement; the plan is then that of one."""
        return self.config.budget.hours is not None and self.pace is None

    @property
    def first_step(self) -> int:
        """Updates already made."""
        return self.start[1].step if self.start else 0

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do, to score neither."""
        last = self.folder.finished() is not None and self.first_step == self.config.train.steps
        asked = self.config.scores
        return last and (not asked.what or self.folder.scored(self.first_step, asked))

    @property
    def learned_from(self) -> str:
        """Hash of the checkpoint that teaches, empty without one."""
        return self.teacher.hash if self.teacher else ""

    @property
    def checkpoints(self) -> dict[str, Path]:
        """Those that it reads, by the key that leads there."""
        teacher = self.teacher.folder if self.teacher else None
        read = {
            "run.dir": self.start[0] if self.start else None,
            "run.weights": self.weights,
            "distill.teacher": teacher,
        }
        return {key: folder for key, folder in read.items() if folder}

    def loader(self, engine: Engine, draws: Draws, steps: range) -> Loader:
        """What reads this process's part of ``draws``: the plan, or what is tried before it."""
        return Loader(
            self.store,
            draws,
            first_step=steps.start,
            stop=steps.stop,
            accumulate=self.config.train.accumulate,
            **asdict(engine.place),
            device=engine.device,
            prefetch=self.config.data.prefetch,
            threads=self.config.data.threads,
        )


def open_run(
    config: RunConfig, damaged: Mapping[Path, str] | None = None, pace: Pace | None = None
) -> Opened:
    """Open what a checked configuration names; nothing is written into the run folder.

    Args:
        config: of the run.
        damaged: what is known to be wrong with some of its checkpoints.
        pace: how long its steps take, if that was measured just now.

    Raises:
        ValueError: the data, the model and the run folder do not fit together.
    """
    store = open_data(config.data)
    if config.samples.count and config.samples.prompt:
        prompt_ids(store.tokenizer(), config.samples.prompt, key="samples.prompt")
    plan_of = partial(
        Plan.build,
        store,
        config.curriculum,
        supply=Supply.of(store, config.curriculum),
        seed=config.run.seed,
        tokens_per_step=config.train.tokens_per_step,
        skip_steps=config.data.skip_steps,
    )
    folder = RunFolder(Path(config.run.dir))
    if config.budget.hours is not None:
        pace = pace or folder.pace()
    config = config.resolved(store.vocab_size)
    start, found = folder.latest(damaged or {})
    config = affordable(config, lambda n: plan_of(steps=n), pace, start[1] if start else None)
    if config.budget.hours is None or pace:
        require(config.check_steps())

    def build(past: Sequence[Past]) -> Plan:
        return plan_of(steps=config.train.steps, past=past)

    others = open_validation(config.data, store)
    validations = Validations.of(store, others, config.curriculum, tokens=config.validation.tokens)
    plan = folder.resume(config, build, start)
    weights, tokenizer = None, store.folder / "tokenizer.json"
    if config.run.weights is not None and start is None:
        weights = find_weights(config.run.weights, config.model, tokenizer)
    opened = Opened(
        config=config,
        store=store,
        plan=plan,
        validations=validations,
        folder=folder,
        start=start,
        damaged=found,
        weights=weights,
        teacher=find_teacher(config, tokenizer),
        pace=pace,
    )
    if start is not None and start[1].teacher != opened.learned_from:
        raise ValueError(
            f"distill.teacher={config.distill.teacher} is not the teacher that {start[0]} learned "
            "from: set it back, or choose another run.dir"
        )
    return opened


def verified(opened: Opened, engine: Engine) -> Opened:
    """The same run, from the newest checkpoint whose contents are whole; every process calls this.

    Rank 0 has claimed the run folder before.

    Raises:
        ValueError: there are checkpoints, and none is whole; or the processes see other ones; or
            what gives the first values, or teaches, is damaged.
    """
    opened = _as_claimed(opened, engine)
    check_same_start(engine, opened.checkpoints)
    while opened.start:
        folder = opened.start[0]
        try:
            check_checkpoint(engine, folder)
            break
        except ValueError as error:
            opened = open_run(opened.config, {**opened.damaged, folder: str(error)})
    for key, folder in opened.checkpoints.items():
        if key != "run.dir":
            with naming(key):
                check_checkpoint(engine, folder, "model/")
    return opened


def _as_claimed(opened: Opened, engine: Engine) -> Opened:
    """The same run, opened anew where another one wrote into its folder before it was claimed."""
    engine.total(torch.zeros((), device=engine.device)).item()  # rank 0 comes when it has claimed
    if opened.folder.latest({}) == (opened.start, opened.damaged):
        return opened
    return open_run(opened.config)
