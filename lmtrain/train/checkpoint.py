"""Checkpoints: folders of safetensors that appear whole or not at all.

    checkpoints/step_00000100/
      config.yaml          the resolved configuration
      tokenizer.json       of the data
      special_tokens.json  ids around the documents of the data
      state.json           step, the plan and those before it, what they used, format
      model/               safetensors, one file a process
      optimizer/           the same
      manifest.json        size and checksum of every other file

Nothing is ever pickled. `lmtrain.train.saver` writes them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from lmtrain import config as configuration
from lmtrain.data.manifest import Manifest
from lmtrain.data.replan import Past
from lmtrain.train.manifest import NAME, check
from lmtrain.train.manifest import Manifest as Contents

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from lmtrain.data.plan import Plan
    from lmtrain.settings.checkpoint import CheckpointSection

FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a run stands: enough to continue it exactly, with the tensors."""

    step: int
    plan: str
    """Hash of the plan that the data came from."""
    identity: dict[str, Any]
    """What that plan was made of, by key."""
    tokens: int = 0
    used: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    rest: dict[str, int] = field(default_factory=dict[str, int])
    """What was used of the data, for a plan that goes on from here; see `Past`."""
    past: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """The plans before this one, as JSON."""
    faults: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """What the judge of losses remembers; see `Faults`."""
    teacher: str = ""
    """Hash of the checkpoint that teaches the run, empty without one."""
    format: int = FORMAT

    @classmethod
    def of(
        cls, step: int, plan: Plan, faults: dict[str, list[float]], *, teacher: str = ""
    ) -> State:
        """The state after ``step`` updates."""
        past = [asdict(each) for each in plan.past]
        return cls(**vars(plan.until(step)), past=past, faults=faults, teacher=teacher)

    @property
    def plans(self) -> list[Past]:
        """The plans before the last one."""
        return [Past.read(each) for each in self.past]

    @property
    def last(self) -> Past:
        """The last plan, as one that lies in the past.

        Raises:
            ValueError: the checkpoint does not say what was used.
        """
        if not self.used:
            raise ValueError(
                "its state does not say what was used of the data, as it was written by an earlier "
                "version: continue it unchanged to its next checkpoint first"
            )
        names = ("step", "plan", "identity", "tokens", "used", "rest")
        return Past.read({name: getattr(self, name) for name in names})


def path(root: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` updates lies."""
    return root / f"step_{step:08d}"


def describe(
    folder: Path, *, state: State, config: configuration.RunConfig, tokenizer: Path
) -> list[Path]:
    """Write all of a checkpoint but its tensors and its manifest; the files."""
    texts = {
        "config.yaml": configuration.to_yaml(config),
        "tokenizer.json": tokenizer.read_text(encoding="utf-8"),
        "state.json": json.dumps(asdict(state)) + "\n",
    }
    if tokenizer.with_name("manifest.json").is_file():
        around = Manifest.read(tokenizer.parent).tokenizer.around
        texts["special_tokens.json"] = json.dumps(around) + "\n"
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def read_state(folder: Path) -> State:
    """Where the run of a checkpoint stood.

    Raises:
        ValueError: not a checkpoint, or one of another format.
    """
    try:
        state = State(**json.loads((folder / "state.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{folder} is not a checkpoint: {error}") from error
    if state.format != FORMAT:
        raise ValueError(f"{folder} has format {state.format}, this version reads {FORMAT}")
    return state


def newest(root: Path, damaged: Mapping[Path, str]) -> tuple[Path | None, dict[Path, str]]:
    """The newest checkpoint below ``root`` that seems whole; contents of tensors are not read.

    Args:
        root: of the checkpoints.
        damaged: what is known to be wrong with some.

    Returns:
        The folder, None if there never was one; and what is wrong with each that is newer.

    Raises:
        ValueError: there are some, and none of them is whole.
    """
    found = dict(damaged)
    for folder in sorted(folders(root), reverse=True):
        if folder not in found:
            try:
                if folder.is_symlink():
                    raise ValueError(f"{folder} is a link: copy the checkpoint there")
                _check_outside(folder)
                return folder, found
            except ValueError as error:
                found[folder] = str(error)
    if found:
        raise ValueError(f"no checkpoint is whole: {'; '.join(found.values())}")
    return None, found


def find(path: Path, key: str = "checkpoint") -> Path:
    """The checkpoint that a path means: a run folder's newest, or the folder itself.

    It has all its files; those of tensors, which may be large, are not read.

    Args:
        path: what a key of the configuration holds.
        key: which one.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    itself = (path / "state.json").is_file()
    folder = path if itself else max(folders(path / "checkpoints"), default=None)
    if folder is None:
        raise ValueError(f"{key}={path} holds no checkpoint: give a run folder or a step folder")
    with naming(key):
        _check_outside(folder)
    return folder


def find_whole(path: Path) -> Path:
    """The checkpoint that ``checkpoint=path`` means, every file of it verified by this process.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    folder = find(path)
    with naming("checkpoint"):
        check(folder)
    return folder


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Say of damage which key of the configuration led to it.

    Raises:
        ValueError: with the remedy.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error}: give {key}= another step folder of the run") from error


def regular(root: Path, every: int | None) -> Path | None:
    """The newest checkpoint that was written in its turn, not because a run was stopped."""
    steps = [folder for folder in folders(root) if every and step_of(folder) % every == 0]
    return max(steps, default=None)


def retain(root: Path, keep: CheckpointSection) -> None:
    """Remove what need not stay; the newest that was written in its turn always does."""
    saved = sorted(folders(root))
    for old in saved[: -keep.keep] if keep.keep else []:
        for_ever = keep.keep_every and step_of(old) % keep.keep_every == 0
        if not for_ever and old != regular(root, keep.every):
            remove(old)


def remove(folder: Path) -> None:
    """Remove a checkpoint; whoever looks meanwhile finds all of it or none."""
    partial = folder.with_name(f"{folder.name}.partial")
    folder.rename(partial)
    shutil.rmtree(partial)


def clean(root: Path, damaged: Iterable[Path] = ()) -> None:
    """Remove what was left half-written, and set damaged checkpoints aside under another name."""
    for partial in root.glob("step_*.partial"):
        if partial.is_symlink():
            partial.unlink()  # what it leads to is not ours
        else:
            shutil.rmtree(partial)
    for folder in damaged:
        names = (folder.with_name(f"{folder.name}.damaged{n or ''}") for n in count())
        folder.rename(next(name for name in names if not os.path.lexists(name)))


def _check_outside(folder: Path) -> None:
    """See that a checkpoint has all its files, and that the small ones are as they were written."""
    manifest = Contents.read(folder / NAME)
    manifest.check_sizes(folder)
    small = [name for name in manifest.files if "/" not in name]
    for problem in manifest.check_contents(folder, small).values():
        raise ValueError(problem)


def folders(root: Path) -> list[Path]:
    """Checkpoints below ``root``, whole or damaged."""
    return [each for each in root.glob("step_*") if re.fullmatch(r"step_\d{8,}", each.name)]


def step_of(folder: Path) -> int:
    """After how many updates a checkpoint was written, by its name."""
    return int(folder.name.removeprefix("step_"))
