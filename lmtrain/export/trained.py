"""A checkpoint, opened for export."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lmtrain import config as configuration
from lmtrain.data.tokenize import end_of_text, load_tokenizer, vocab_size
from lmtrain.models.decoder import Decoder
from lmtrain.train.checkpoint import find_whole
from lmtrain.train.stored import Stored

if TYPE_CHECKING:
    from torch import Tensor

    from lmtrain.models.config import ModelConfig


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds; its tensors are read when they are looked up."""

    folder: Path
    run: configuration.RunConfig
    tensors: Stored
    begin_of_text: int | None
    end_of_text: int

    @classmethod
    def open(cls, path: Path) -> Trained:
        """A run folder's latest checkpoint, or one checkpoint folder.

        Raises:
            ValueError: there is none, it is not whole, or its parts do not fit together.
        """
        folder = find_whole(path)
        run = configuration.read(folder / "config.yaml")
        tokenizer = load_tokenizer(folder / "tokenizer.json")
        special = folder / "special_tokens.json"
        around = json.loads(special.read_text()) if special.is_file() else {}
        end = around.get("end_of_text")
        end = end_of_text(tokenizer) if end is None else end
        rows, known = run.model.vocab_size, vocab_size(tokenizer)
        if rows is None or rows < known:
            raise ValueError(
                f"{folder} has a tokenizer of {known} tokens and model.vocab_size={rows}: it is "
                "the tokenizer of another model"
            )
        tensors = Stored.checkpoint(folder / "model")
        wanted = {name: tuple(x.shape) for name, x in blank(run.model).items()}
        tensors.expect(wanted, f"{folder / 'model'} is of another model")
        return cls(folder, run, tensors, around.get("begin_of_text"), end)

    @cached_property
    def vocabulary(self) -> int:
        """Tokens that the tokenizer knows; the embedding may have more rows."""
        return vocab_size(load_tokenizer(self.folder / "tokenizer.json"))

    @property
    def unused(self) -> range:
        """Rows of the embedding that are no token."""
        assert self.run.model.vocab_size is not None
        return range(self.vocabulary, self.run.model.vocab_size)


def blank(model: ModelConfig) -> dict[str, Tensor]:
    """The parameters of a model, without storage."""
    with torch.device("meta"):
        return {name: p.detach() for name, p in Decoder(model).named_parameters()}
