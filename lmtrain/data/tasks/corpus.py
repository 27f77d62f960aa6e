"""A synthetic task as what a run reads from: its rows are documents, drawn when they are read.

Positions count tokens, length by length. A row of ``n`` tokens is a document of ``n + 1``, the last
being the end of text, so that decomposition keeps it whole::

    | row 0 of 64 |e| row 1 of 64 |e| ... | row 0 of 128 |e| ...
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from lmtrain.batch import IGNORED
from lmtrain.data.bucket import NOWHERE
from lmtrain.data.store import Documents, Selection, Side, cache_folder
from lmtrain.data.tasks.task import examples
from lmtrain.data.tokenize import END_OF_TEXT, load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from lmtrain.data.bucket import Segments
    from lmtrain.data.config import DataConfig
    from lmtrain.data.tasks.config import TaskConfig


class TaskCorpus:
    """Rows of one task, of several lengths.

    Args:
        config: the task, its lengths and how many rows; checked.
        folder: where its tokenizer is, or is to be written.
    """

    token_bytes = None
    """Tokens stand for no text."""

    def __init__(self, config: TaskConfig, folder: Path) -> None:
        self.config, self.folder, self.task = config, folder, config.task
        self.lengths = np.array(sorted(set(config.lengths)))
        self._rows = config.rows + config.val_rows
        self._begins = np.cumsum([0, *(self._rows * (self.lengths + 1))])
        self._write_tokenizer()

    @classmethod
    def open(cls, config: DataConfig) -> TaskCorpus:
        """That of a checked configuration.

        Raises:
            ValueError: the cache cannot be written.
        """
        return cls(config.task, cache_folder(config) / f"numbers-{config.task.task.vocab_size}")

    @property
    def vocab_size(self) -> int:
        """Those of the task, and the end of text."""
        return self.task.vocab_size + 1

    @property
    def end_of_text(self) -> int:
        """The last id."""
        return self.task.vocab_size

    @property
    def selection(self) -> Selection:
        """The share of the rows that validates."""
        return Selection(val_fraction=self.config.val_rows / self._rows)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides which tokens stand where."""
        return {
            "data.task": repr(self.task),
            "data.task.lengths": self.lengths.tolist(),
            "data.task.rows": self.config.rows,
            "data.task.val_rows": self.config.val_rows,
            "data.task.seed": self.config.seed,
        }

    def tokenizer(self) -> Tokenizer:
        """Ids as decimal numbers between spaces."""
        return load_tokenizer(self.folder / "tokenizer.json")

    def targets(self, length: int) -> int:
        """Targets of every row of a length."""
        return self.task.targets(length)

    def documents(self, side: Side) -> Documents:
        """The rows of one side, shortest first."""
        numbers = self._numbers(side)
        starts = [
            begin + numbers * (length + 1)
            for begin, length in zip(self._begins[:-1], self.lengths, strict=True)
        ]
        lengths = np.repeat(self.lengths + 1, len(numbers))
        return Documents(np.concatenate(starts), lengths)

    def read(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """``[len(starts), length]`` tokens from each position on, inside one row each."""
        lengths = np.full_like(starts, length)
        tokens, _ = self._stretches(starts, lengths)
        return tokens.reshape(len(starts), length)

    def pairs(self, span: Segments) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """``[t]`` tokens and their targets, ``IGNORED`` where there is none."""
        real = span.starts != NOWHERE
        if real.all():
            return self._stretches(span.starts, span.lengths)
        tokens = np.full(int(span.lengths.sum()), self.end_of_text)
        targets = np.full_like(tokens, IGNORED)
        here = np.repeat(real, span.lengths)
        tokens[here], targets[here] = self._stretches(span.starts[real], span.lengths[real])
        return tokens, targets

    def _stretches(
        self, starts: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens and targets of stretches of rows, one after the other."""
        kinds = np.searchsorted(self._begins, starts, side="right") - 1
        ends = np.cumsum(lengths)
        tokens, targets = np.empty((2, int(ends[-1]) if len(ends) else 0), np.int64)
        for kind in np.unique(kinds):
            width = int(self.lengths[kind])
            here = np.flatnonzero(kinds == kind)
            rows, first = np.divmod(starts[here] - self._begins[kind], width + 1)
            drawn = examples(self.task, rows, seed=self.config.seed, length=width)
            ended = np.full((len(here), 1), self.end_of_text)
            every = (
                (tokens, np.concatenate([drawn.tokens, ended], axis=1)),
                (targets, np.concatenate([drawn.targets, np.full_like(ended, IGNORED)], axis=1)),
            )
            for place, (piece, at) in enumerate(zip(here.tolist(), first.tolist(), strict=True)):
                count, end = int(lengths[piece]), int(ends[piece])
                for out, values in every:
                    out[end - count : end] = values[place, at : at + count]
        return tokens, targets

    def _numbers(self, side: Side) -> NDArray[np.int64]:
        """Of the rows of one side: those that validate come last."""
        begin, end = {
            Side.train: (0, self.config.rows),
            Side.validation: (self.config.rows, self._rows),
        }[side]
        return np.arange(begin, end)

    def _write_tokenizer(self) -> None:
        path = self.folder / "tokenizer.json"
        if path.exists():
            return
        vocabulary = {str(number): number for number in range(self.task.vocab_size)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary | {END_OF_TEXT: self.end_of_text}))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.add_special_tokens([END_OF_TEXT])  # pyright: ignore[reportUnknownMemberType]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f"{path.name}.{os.getpid()}")
            tokenizer.save(str(draft))
            draft.replace(path)  # processes that write it at once write the same
        except OSError as error:
            raise ValueError(
                f"data.cache={self.folder.parent} cannot be written ({error}): choose another "
                "folder with data.cache=PATH"
            ) from error
