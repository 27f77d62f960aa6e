"""What ``lmtrain prepare`` does, by its mode."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from lmtrain.data.estimate import estimate
from lmtrain.data.prepare import prepare
from lmtrain.data.prepare_config import Mode
from lmtrain.data.store import Selection, Store
from lmtrain.data.tools.ingest import import_tokens
from lmtrain.data.tools.megatron import write_megatron
from lmtrain.data.tools.peek import peek
from lmtrain.data.tools.stats import describe
from lmtrain.data.tools.verify import verify

if TYPE_CHECKING:
    from lmtrain.data.prepare_config import PrepareConfig


def run_mode(config: PrepareConfig) -> None:
    """Do what the configuration asks for, and print what there is to tell.

    Raises:
        ValueError: the configuration, the input or the store cannot be used; with mode=verify also
            everything that is wrong with the store, a line each.
    """
    if problems := config.check():
        raise ValueError("\n".join(problems))
    match config.mode:
        case Mode.build if config.dry_run:
            print(estimate(config))
        case Mode.build:
            _tell(prepare(config))
        case Mode.import_:
            _tell(import_tokens(config))
        case Mode.export:
            for path in write_megatron(_open(config), Path(config.out).expanduser()):
                print(path)
        case Mode.verify:
            _verify(_folder(config))
        case Mode.stats:
            print(describe(_open(config), config))
        case Mode.peek:
            print(*peek(_open(config), count=config.count, seed=config.seed), sep="\n\n")


def _tell(store: Path) -> None:
    """Say what trains on a new store, in a run folder of its own."""
    words = "data=store", f"data.source={store}", f"run.dir=runs/{store.name}"
    print("lmtrain train", shlex.join(words))


def _open(config: PrepareConfig) -> Store:
    """The store of ``input``, with all of its documents on the training side."""
    return Store(_folder(config), Selection(val_fraction=0))


def _folder(config: PrepareConfig) -> Path:
    folder = Path(config.input).expanduser()
    if not folder.is_dir():
        raise ValueError(f"input={folder} is no folder: mode={config.mode} reads a token store")
    return folder


def _verify(folder: Path) -> None:
    problems: list[str] = []
    for report in verify(folder):
        print(report, flush=True)
        problems += report.problems
    if problems:
        raise ValueError("\n".join(problems))
