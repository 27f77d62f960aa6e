"""A training run from top to bottom: what it needs, what it tells, the loop, the end."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from math import nan
from signal import SIGTERM
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from lmtrain.compilation import watched
from lmtrain.data.summary import summarize
from lmtrain.evaluate.subject import Subject
from lmtrain.models.decoder import Decoder
from lmtrain.ops.backend import describe
from lmtrain.report import read, write_page
from lmtrain.settings.faults import FaultPolicy
from lmtrain.train import checkpoint
from lmtrain.train.birth import birth
from lmtrain.train.device import begun
from lmtrain.train.engines import Engine, open_engine
from lmtrain.train.faults import Faults
from lmtrain.train.invariants import check_checkpoint, check_same_batch
from lmtrain.train.lost import naming
from lmtrain.train.norms import measure
from lmtrain.train.objective import Objective, open_objective
from lmtrain.train.observers import Everyone, observers
from lmtrain.train.opening import Opened, verified
from lmtrain.train.pace import paced
from lmtrain.train.profiler import Profiler
from lmtrain.train.report import FaultReport
from lmtrain.train.samples import write_samples
from lmtrain.train.saver import Saver
from lmtrain.train.schedule import learning_rate
from lmtrain.train.scoring import score
from lmtrain.train.start import extensions
from lmtrain.train.steps import Reporter, Update, add_gradients
from lmtrain.train.stop import StopRequest
from lmtrain.train.validate import validate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.batch import Batch
    from lmtrain.config import RunConfig
    from lmtrain.train.report import Report


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    step: int
    signal: int | None = None
    """What stopped it before its last step, or before its scores."""


def train(opened: Opened, *, world: int, alone: bool) -> Outcome:
    """Train to the last step, or until a signal asks to stop.

    Args:
        opened: from `open_run`.
        world: processes that take part; every one of them calls this.
        alone: no launcher stands between this process and the terminal.
    """
    config, launch = opened.config, opened.config.launch
    engine = open_engine(config.engine, config.parallel, world=world, timeout=launch.timeout)
    leads = engine.rank == 0
    with ExitStack() as held:
        if leads:
            held.enter_context(opened.folder.claimed())
        with closing(engine), StopRequest(launch, insist=alone) as stop, naming(engine, stop):
            opened = verified(opened, engine)
            model, optimizer = birth(config, engine, opened.weights)
            objective = open_objective(config, engine, opened.teacher)
            opened, told = paced(opened, engine, model, optimizer, objective)
            config, first = opened.config, opened.first_step
            if leads:
                opened.folder.start(config, step=first, pace=opened.pace, damaged=opened.damaged)
            tell = closing(observers(config, rank=engine.rank, first_step=first))
            tell = held.enter_context(tell)
            for report in (*told, *first_reports(opened, engine)):
                tell(report)
            if opened.start:
                engine.load(opened.start[0], model, optimizer)
            training = Training(opened, engine, model, optimizer, objective, tell, stop)
            outcome = training.fit()
            if outcome.signal is None and config.scores.what:
                outcome = training.score()
        if leads:
            conclude(opened, outcome, tell)
    return outcome


def first_reports(opened: Opened, engine: Engine) -> Iterator[Report]:
    """What is told before the first step."""
    config, first = opened.config, opened.first_step
    yield from (f"{damage}: set aside" for damage in opened.damaged.values())
    if opened.start:
        yield f"going on from {opened.start[0]}"
    yield summarize(opened.plan, config.train.steps)
    yield describe(config.ops, engine.device)
    yield begun(config, engine.device, step=first, processes=engine.world)
    yield from extensions(opened.weights, config.model) if opened.weights else ()


def conclude(opened: Opened, outcome: Outcome, tell: Everyone) -> None:
    """Write samples and ``done`` after the last step; say what can be done next."""
    folder = opened.folder
    if outcome.signal is not None:
        tell(f"stopped after step {outcome.step}: the same command continues")
        return
    config = opened.config
    for text in write_samples(
        checkpoint.path(folder.checkpoints, outcome.step),
        opened.store,
        config.samples,
        folder=folder.samples,
        device=config.engine.device,
        ops=config.ops,
    ):
        tell(text)
    folder.finish(outcome.step)
    if config.logging.report:
        tell(f"report: {write_page([read(folder.path)])}")
    tell(f"finished: lmtrain generate checkpoint={folder.path}")


@dataclass
class Training:
    """A run in progress."""

    opened: Opened
    engine: Engine
    model: Decoder
    optimizer: torch.optim.Optimizer
    objective: Objective
    tell: Everyone
    stop: StopRequest

    def __post_init__(self) -> None:
        opened, memory = self.opened, self.opened.start[1].faults if self.opened.start else {}
        self.faults = Faults(self.config.faults, memory)
        self.saver = Saver(
            opened.folder.checkpoints,
            self.engine,
            config=self.config,
            tokenizer=opened.store.folder / "tokenizer.json",
            tell=self.tell,
        )

    def fit(self) -> Outcome:
        """The loop: update, report, validate, save."""
        config, first, steps = self.config, self.opened.first_step, self.config.train.steps
        check_same_batch(self.engine, self.opened.plan, first)
        if _due(first, config.validation.every) and not self.opened.folder.validated(first):
            self.validate(first)  # it was stopped before it could
        report = Reporter(self.config, self.opened.plan, self.engine, self.objective)
        clock = perf_counter()
        loader = self.opened.loader(self.engine, self.opened.plan, range(first, steps))
        with loader, self._profiler() as profile, closing(self.saver):
            for step, batches in enumerate(loader, first + 1):
                self.stop.doing = f"step {step}"
                profile(step)
                length = self.opened.plan.length(step - 1)
                new = step == first + 1 or self.objective.begins(step - 1)
                with watched(self.engine.compiler, self.tell, step=step, first=new, length=length):
                    update = self.update(step - 1, batches)
                seconds = perf_counter() - clock
                self.tell(report(step, update, seconds=seconds, data_wait=loader.wait_seconds))
                last, stopped = step == steps, update.stopped
                if last or (_due(step, config.validation.every) and not stopped):
                    self.validate(step)
                if last or stopped or _due(step, config.checkpoint.every):
                    self.save(step)
                if last or stopped:
                    self.saver.finish(must=True)
                if stopped and not last:
                    return Outcome(step=step, signal=self.stop.signal or SIGTERM)
                clock = perf_counter()
        return Outcome(step=steps)

    def update(self, index: int, batches: list[Batch]) -> Update:
        """One optimizer update on global batch ``index``, of which ``batches`` are our part."""
        config, targets = self.config, self.opened.plan.targets(index)
        self.engine.sent()  # what a validation sent is not this step's
        started = perf_counter()
        names = self.objective.parts(index)
        sums = add_gradients(index, batches, targets, self.model, self.objective, self.engine)
        computed, sent = perf_counter(), self.engine.sent()
        if _due(index + 1, config.logging.norms_every):
            self.tell(measure(self.model, self.engine, batches, step=index + 1))
        measured = perf_counter()
        flags = sums.new_tensor([sent, self.stop.signal is not None, self.saver.failed])
        *found, sent, stops, failures = self.engine.total(torch.cat([sums, flags])).tolist()
        parts = {name: total / targets for name, total in zip(names, found, strict=True)}
        lr = learning_rate(index, steps=config.train.steps, optim=config.optim)
        grad_norm, fault = self.apply(index, loss=parts[names[0]], lr=lr)
        updated = perf_counter()
        if failures or fault:
            self.saver.finish()
        if fault:
            self.leave_out(index + 1, fault)
        return Update(
            loss=parts[names[0]],
            lr=lr,
            grad_norm=grad_norm,
            forward_backward=computed - started,
            update=updated - measured,
            sp_bytes=int(sent),
            stopped=stops > 0,
            parts=parts,
        )

    def apply(self, index: int, *, loss: float, lr: float) -> tuple[float, str]:
        """Let the gradients of global batch ``index`` change the model, unless it is at fault.

        Returns:
            The gradients' norm, and what is wrong: nothing, or why the model stays as it was.
        """
        if self.objective.begins(index):
            self.faults.restore({})  # losses of another kind are no measure for it
        if fault := self.faults.judge(loss):
            return nan, fault
        try:
            grad_norm = self.engine.step(self.optimizer, lr=lr, clip=self.config.optim.clip)
        except FloatingPointError as error:
            return nan, str(error)
        self.faults.accept(loss)
        return grad_norm, ""

    def leave_out(self, step: int, fault: str) -> None:
        """Go on without the batch of ``step``, as ``faults.policy`` says."""
        self.engine.discard(self.optimizer)
        self.faults.note(step, fault)
        policy, back = self.config.faults.policy, step
        if policy is FaultPolicy.rollback:
            folder = self.saver.regular()
            check_checkpoint(self.engine, folder)
            self.engine.load(folder, self.model, self.optimizer)
            state = checkpoint.read_state(folder)
            back = state.step
            alike = self.objective.stage(back - 1) == self.objective.stage(step - 1)
            self.faults.restore(state.faults if alike else {})
        self.tell(FaultReport(step=step, fault=fault, back=back, faults=self.faults.count))

    def validate(self, step: int) -> None:
        """Report the loss on documents that are never trained on."""
        sets = self.opened.validations
        if sets.every:
            parts = self.config.train.accumulate * self.engine.place.world
            row = self.config.train.tokens_per_step // parts
            self.tell(validate(self.model, sets, self.engine, step=step, row=row))

    def score(self) -> Outcome:
        """Score the model after its last step; stopped meanwhile, the next start does it anew."""
        folder, steps = self.opened.folder, self.config.train.steps
        saved = checkpoint.path(folder.checkpoints, steps)
        subject = Subject(self.model, self.engine, self.config, saved)
        done = score(subject, folder.scores, tell=self.tell, stop=self.stop)
        return Outcome(step=steps, signal=None if done else self.stop.signal or SIGTERM)

    def save(self, step: int) -> None:
        """Begin to write a checkpoint."""
        self.stop.doing = f"the checkpoint of step {step}"
        check_same_batch(self.engine, self.opened.plan, step)
        plan, memory = self.opened.plan, self.faults.memory
        state = checkpoint.State.of(step, plan, memory, teacher=self.opened.learned_from)
        self.saver.save(state, self.model, self.optimizer)

    @property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return self.opened.config

    def _profiler(self) -> Profiler:
        folder, engine = self.opened.folder.path / "profile", self.engine
        steps = self.config.logging.profiled
        return Profiler(steps, folder, rank=engine.rank, device=engine.device)


def _due(step: int, every: int | None) -> bool:
    return step > 0 and every is not None and step % every == 0
