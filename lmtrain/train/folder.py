"""The run folder: who owns it, what it holds, and whether a run may continue in it.

config.yaml  pace.json  metrics.jsonl  checkpoints/step_00000100/  samples/  scores.json  done
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lmtrain.config import RunConfig, flat, read, to_yaml
from lmtrain.data.plan import without_skipped
from lmtrain.files import claimed, unwritable, write_whole
from lmtrain.train.checkpoint import State, clean, folders, newest, read_state, retain
from lmtrain.train.checkpoint import path as checkpoint_at
from lmtrain.train.spend import Pace
from lmtrain.train.start import extends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from lmtrain.data.plan import Plan
    from lmtrain.data.replan import Past
    from lmtrain.settings.scores import ScoresSection

FIXED = ("run.seed", "model.", "optim.", "distill.", "train.z_loss")
"""Keys that may not change when a run continues; data and curriculum are judged by their plan."""

FREE = ("model.name", "distill.teacher")
"""Keys among them that decide nothing; a teacher is known by its weights, wherever it lies."""

VOCABULARY = ("data.source", "data.vocab_size", "data.task.")
"""Keys from which the model's vocabulary follows: a user who changed one hears of it first."""


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.scores = path / "scores.json"
        self._pace = path / "pace.json"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder and keep other runs out of it.

        Raises:
            ValueError: it cannot be written, or another run holds it.
        """
        with claimed(self.path, "another run: choose another"):
            try:
                self.checkpoints.mkdir(exist_ok=True)
                (self.path / "metrics.jsonl").open("a").close()
            except OSError as error:
                raise unwritable(self.path, error) from error
            yield

    def pace(self) -> Pace | None:
        """How long its steps take, as it was measured before the first one; None for a new run.

        Raises:
            ValueError: there are checkpoints of a run that was never measured.
        """
        if not folders(self.checkpoints):
            return None
        if not self._pace.exists():
            raise ValueError(
                f"run.dir={self.path} was begun without budget.hours, which measures before the "
                "first step: say budget.tokens or train.steps, or choose another run.dir"
            )
        return Pace.read(self._pace)

    def start(
        self,
        config: RunConfig,
        *,
        step: int,
        pace: Pace | None = None,
        damaged: Iterable[Path] = (),
    ) -> None:
        """Write configuration and pace, forget reports after ``step``, clear up checkpoints.

        Raises:
            ValueError: the folder cannot be written.
        """
        try:
            clean(self.checkpoints, damaged)
            retain(self.checkpoints, config.checkpoint)
            write_whole(self.path / "config.yaml", to_yaml(config))
            if not step:
                self._pace.unlink(missing_ok=True)  # of an attempt that went another way
            if pace:
                write_whole(self._pace, pace.text())
            metrics = self.path / "metrics.jsonl"
            kept = [line for line in _lines(metrics) if _step(line) <= step]
            write_whole(metrics, "".join(f"{line}\n" for line in kept))
            (self.path / "done").unlink(missing_ok=True)
        except OSError as error:
            raise ValueError(f"run.dir={self.path} cannot be written ({error})") from error

    def validated(self, step: int) -> bool:
        """Whether the validation after ``step`` was reported."""
        lines = _lines(self.path / "metrics.jsonl")
        return any(_step(line) == step and "val_loss" in line for line in lines)

    def scored(self, step: int, asked: ScoresSection) -> bool:
        """Whether the scores that are asked of the model after ``step`` were written."""
        try:
            scored = json.loads(self.scores.read_text())
            model, found = Path(str(scored["checkpoint"])).name, scored["config"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return model == checkpoint_at(self.checkpoints, step).name and found == asdict(asked)

    def finish(self, step: int) -> None:
        """Say that the run reached its last step."""
        write_whole(self.path / "done", f"{step}\n")

    def finished(self) -> int | None:
        """The step at which the run was finished, None if it was not."""
        done = self.path / "done"
        return int(done.read_text()) if done.exists() else None

    def latest(
        self, damaged: Mapping[Path, str]
    ) -> tuple[tuple[Path, State] | None, dict[Path, str]]:
        """Where a run goes on from.

        Args:
            damaged: what is known to be wrong with some checkpoints.

        Returns:
            The newest checkpoint, None for a new run; and what is wrong with newer ones.

        Raises:
            ValueError: what was there is gone, or is all damaged.
        """
        try:
            folder, found = newest(self.checkpoints, damaged)
        except ValueError as error:
            raise ValueError(f"run.dir={self.path}: {error}: choose another run.dir") from error
        if folder is None and self.finished() is not None:
            raise ValueError(
                f"run.dir={self.path} is finished at step {self.finished()}, but its checkpoints "
                "are gone: choose another run.dir"
            )
        return (folder, read_state(folder)) if folder else None, found

    def resume(
        self,
        config: RunConfig,
        build: Callable[[Sequence[Past]], Plan],
        start: tuple[Path, State] | None,
    ) -> Plan:
        """The plan by which a run goes on.

        Args:
            config: of the run.
            build: gives the plan that goes on from the plans before it.
            start: the checkpoint that it continues from, None for a new run.

        Raises:
            ValueError: what is there is another run.
        """
        if start is None:
            return build([])
        folder, state = start
        try:
            _require_same(state, read(folder / "config.yaml"), config)
            return _go_on(state, config, build)
        except ValueError as error:
            raise ValueError(
                f"{folder} cannot continue: {error}; or choose another run.dir"
            ) from error


def _go_on(state: State, config: RunConfig, build: Callable[[Sequence[Past]], Plan]) -> Plan:
    """The plan that was followed, or with resume.replan the one that goes on from it."""
    try:
        plan = build(state.plans)
        if plan.hash == state.plan:
            return plan
        if not config.resume.replan:
            raise ValueError(
                f"{plan.differences(state.identity)[0]}: set it back, or say resume.replan=true "
                "to use what is left in another way"
            )
    except ValueError:  # what is asked for now need not have been possible from the start
        if not config.resume.replan:
            raise
    return build([*state.plans, state.last])


def _require_same(state: State, old: RunConfig, new: RunConfig) -> None:
    problems = [
        *_differences(old, new),
        *_skipped(state.step, old.data.skip_steps, new.data.skip_steps),
    ]
    if state.step > new.train.steps:
        decided = new.budget.decided(new.train.steps)
        problems.append(f"{decided} lies before its step {state.step}: raise it")
    if problems:
        raise ValueError(problems[0])


def _skipped(step: int, old: list[list[int]], new: list[list[int]]) -> list[str]:
    """What would shift the steps of the plan that were already followed."""
    last = without_skipped(step - 1, old)
    was, now = ([skip for skip in skips if skip[0] <= last] for skips in (old, new))
    if was == now:
        return []
    return [
        f"data.skip_steps was {old} and is {new}, and steps up to {last} of the plan were followed "
        f"or left out: set it back, or let what you add begin at {last + 1} or later"
    ]


def _differences(old: RunConfig, new: RunConfig) -> list[str]:
    """What makes ``new`` another run than ``old``."""
    before, now = flat(old), flat(new)
    another = ", or name this run in run.weights of a new one"
    changed = [key for key, value in now.items() if value != before.get(key)]
    fixed = [key for key in changed if key.startswith(FIXED) and key not in FREE]
    if "model.vocab_size" in fixed:
        fixed = [key for key in changed if key.startswith(VOCABULARY)] + fixed
    return [
        f"{key} was {before.get(key)} and is {now[key]}: set it back"
        f"{another if extends(key) else ''}"
        for key in fixed
    ]


def _lines(metrics: Path) -> list[str]:
    """The lines of metrics; a damaged byte spoils its own line only."""
    return metrics.read_text(encoding="utf-8", errors="replace").splitlines()


def _step(line: str) -> float:
    """The step of a line of metrics; infinite if the line was cut short or is damaged."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return float("inf")
    return step if isinstance(step, int) else float("inf")
