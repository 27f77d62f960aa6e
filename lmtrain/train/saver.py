"""Writing checkpoints while training goes on.

The training thread copies (`Engine.snapshot`); a thread beside it writes. No process waits for
another one on the way: each writes its shards, makes them durable, and then its part of the
manifest; rank 0 waits for all parts, writes the manifest and gives the folder its name. Processes
agree on whether that worked where all of them are anyway: in the sum that ends every step.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from contextlib import suppress
from functools import partial as bound
from threading import Event, Thread
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError

from lmtrain.data.writer import sync
from lmtrain.train import checkpoint, manifest
from lmtrain.train.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lmtrain.config import RunConfig
    from lmtrain.models.decoder import Decoder
    from lmtrain.train.engines import Engine
    from lmtrain.train.tensors import Snapshot

LOOK_SECONDS = 0.05
"""Between two looks for the parts of other processes."""

LEAVE_SECONDS = 5.0
"""How long a process that leaves early waits for the checkpoint that is being written."""

EXISTS = (errno.EEXIST, errno.ENOTEMPTY)
"""Error numbers of a checkpoint whose name is taken."""


class Saver:
    """Writes the checkpoints of a run, at most one at a time.

    Args:
        root: the folder of checkpoints.
        engine: copies, and adds up what became of the processes' writing.
        config: of the run; decides what stays.
        tokenizer: goes into every checkpoint.
        tell: hears what could not be written.
    """

    def __init__(
        self,
        root: Path,
        engine: Engine,
        *,
        config: RunConfig,
        tokenizer: Path,
        tell: Callable[[str], None],
    ) -> None:
        self._root, self._engine, self._config = root, engine, config
        self._tokenizer, self._tell = tokenizer, tell
        self._writing: _Writing | None = None

    @property
    def failed(self) -> bool:
        """Whether this process could not write its part; the others are to be told."""
        return self._writing is not None and self._writing.error is not None

    def save(
        self, state: checkpoint.State, model: Decoder, optimizer: torch.optim.Optimizer
    ) -> None:
        """Begin to write the checkpoint of ``state``; every process calls this at the same step."""
        self.finish()
        describe = bound(
            checkpoint.describe, state=state, config=self._config, tokenizer=self._tokenizer
        )
        self._writing = _Writing(
            checkpoint.path(self._root, state.step),
            self._engine.snapshot(model, optimizer),
            rank=self._engine.rank,
            world=self._engine.world,
            describe=describe,
            retain=bound(checkpoint.retain, self._root, self._config.checkpoint),
        )
        self._writing.start()
        if not self._config.checkpoint.asynchronous:
            self.finish()

    def finish(self, *, must: bool = False) -> None:
        """Wait for the checkpoint that is being written; every process calls this.

        What was written of one that could not be finished is removed, and training can go on.

        Args:
            must: it is the last one, and nothing else keeps what was learned.

        Raises:
            ValueError: it had to be written and was not.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        writing.written.wait()
        codes = self._codes(writing)
        if any(codes):
            writing.abandoned.set()
        writing.join()
        codes = self._codes(writing)
        if isinstance(writing.error, Exception) and not isinstance(writing.error, OSError):
            raise writing.error
        if not any(codes):
            return
        if self._engine.rank == 0:
            shutil.rmtree(writing.partial, ignore_errors=True)
        reasons = [f"process {r}: {_reason(code)}" for r, code in enumerate(codes) if code]
        told = f"{writing.folder} was not written ({'; '.join(reasons)})"
        if must:
            remedy = "" if set(codes) & set(EXISTS) else "; if the disk is full, make room first"
            raise ValueError(
                f"{told}: the checkpoints before it are whole, and the same command goes on from "
                f"the newest that is{remedy}"
            )
        self._tell(
            f"{told}: training goes on, the checkpoints before it are whole, and the next one is "
            "tried in its turn"
        )

    def regular(self) -> Path:
        """The newest checkpoint that was written in its turn; every process calls this.

        Raises:
            ValueError: there is none yet.
        """
        found = checkpoint.regular(self._root, self._config.checkpoint.every)
        step = -1 if found is None else checkpoint.step_of(found)
        ours = torch.tensor(step if self._engine.rank == 0 else 0, device=self._engine.device)
        step = int(self._engine.total(ours))
        if step < 0:
            raise ValueError(
                f"{self._root} holds no checkpoint to go back to yet: give a smaller "
                "checkpoint.every, or say faults.policy=skip"
            )
        return checkpoint.path(self._root, step)

    def close(self) -> None:
        """Leave: wait a little for what is being written, with no word to the others."""
        if self._writing and not isinstance(sys.exception(), KeyboardInterrupt):
            self._writing.join(timeout=LEAVE_SECONDS)

    def _codes(self, writing: _Writing) -> list[int]:
        """The error number of each process, 0 for none."""
        codes = torch.zeros(self._engine.world, dtype=torch.int64, device=self._engine.device)
        if writing.error is not None:
            codes[self._engine.rank] = getattr(writing.error, "errno", None) or -1
        return self._engine.total(codes).tolist()


class _Writing(Thread):
    """One checkpoint on its way to the disk."""

    def __init__(
        self,
        folder: Path,
        snapshot: Snapshot,
        *,
        rank: int,
        world: int,
        describe: Callable[[Path], list[Path]],
        retain: Callable[[], None],
    ) -> None:
        super().__init__(name=f"checkpoint {folder.name}", daemon=True)
        self.folder, self.partial = folder, folder.with_name(f"{folder.name}.partial")
        self.error: BaseException | None = None
        self.written, self.abandoned = Event(), Event()
        self._snapshot: Snapshot | None = snapshot
        self._rank, self._parts = rank, [self.partial / f"part_{r:05d}.json" for r in range(world)]
        self._describe, self._retain = describe, retain

    def run(self) -> None:
        """Write what this process has; on rank 0 wait for the others and finish."""
        try:
            self._write()
            self.written.set()
            if self._rank == 0 and self._all_written():
                self._seal()
        except SafetensorError as error:
            self.error = _as_os_error(error)
        except Exception as error:
            self.error = error
        finally:
            self.written.set()

    def _write(self) -> None:
        assert self._snapshot is not None
        self._snapshot.write(self.partial)
        self._snapshot = None  # its memory is free while others write
        files = list(self.partial.glob(f"*/shard_{self._rank:05d}.safetensors"))
        if self._rank == 0:
            files += self._describe(self.partial)
        mine, part = Manifest.of(self.partial, files), self._parts[self._rank]
        hidden = part.with_name(f".{part.name}")
        mine.write(hidden)
        for path in (*files, hidden):
            sync(path)
        hidden.rename(part)

    def _all_written(self) -> bool:
        """Wait until every process has written; false when one of them cannot."""
        while not all(part.exists() for part in self._parts):
            if self.abandoned.wait(LOOK_SECONDS):
                return False
        return True

    def _seal(self) -> None:
        """From now on the checkpoint exists."""
        parts = [Manifest.read(part) for part in self._parts]
        whole = Manifest({name: entry for part in parts for name, entry in part.files.items()})
        whole.write(self.partial / manifest.NAME)
        for part in self._parts:
            part.unlink()
        folders = [path for path in self.partial.iterdir() if path.is_dir()]
        for path in (self.partial / manifest.NAME, *folders, self.partial):
            sync(path)
        whole.check_sizes(self.partial)
        self.partial.rename(self.folder)
        sync(self.folder.parent)
        with suppress(OSError):  # what cannot be removed now is tried after the next checkpoint
            self._retain()


def _reason(code: int) -> str:
    """What an error number means for a checkpoint."""
    return "the folder exists already" if code in EXISTS else os.strerror(code)


def _as_os_error(error: SafetensorError) -> Exception:
    """What the operating system said, if safetensors only passes it on."""
    code = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(code[1]), os.strerror(int(code[1]))) if code else error
