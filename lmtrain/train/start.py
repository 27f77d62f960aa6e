"""The first values of a new run's parameters, where they are those of another checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lmtrain.config import RunConfig, flat, read
from lmtrain.train.checkpoint import find
from lmtrain.train.stored import Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from lmtrain.models.config import ModelConfig
    from lmtrain.models.decoder import Decoder

FREE = ("name", "init_std")
"""Keys of a model that decide nothing once its weights are there."""

EXTENDS = ("rope_theta", "rope_scaling.")
"""Parts of keys that a new run may change to reach longer documents; `extensions` tells them."""


def find_weights(weights: str, model: ModelConfig, tokenizer: Path) -> Path:
    """The checkpoint with whose weights a run can begin.

    Args:
        weights: ``run.weights``.
        model: of the run.
        tokenizer: the ``tokenizer.json`` of its data.

    Raises:
        ValueError: there is no checkpoint, or it is of another model or another tokenizer.
    """
    folder = find(Path(weights), "run.weights")
    there = flat(read(folder / "config.yaml", RunConfig).model.explicit())
    here = flat(model.explicit())
    for key, value in there.items():
        if key not in FREE and here[key] != value and not extends(key):
            raise ValueError(
                f"run.weights={weights} has model.{key}={value}, this run {here[key]}: say the same"
            )
    check_tokenizer(f"run.weights={weights}", folder, tokenizer)
    return folder


def extensions(folder: Path, model: ModelConfig) -> Iterator[str]:
    """What a run changes in the positions of the model whose weights it begins with."""
    there, here = (flat(each) for each in (read(folder / "config.yaml", RunConfig).model, model))
    for key, value in there.items():
        if extends(key) and here[key] != value:
            now, before = ("null" if each is None else each for each in (here[key], value))
            yield f"model.{key}={now}, trained so far with {before}"


@torch.no_grad()
def copy_weights(
    model: Decoder, folder: Path, *, write: Callable[[Tensor, Tensor], object]
) -> None:
    """Fill every parameter of ``model`` in place, one at a time in host memory.

    Args:
        model: materialised, and possibly sharded.
        folder: a checkpoint of a model with the same parameters.
        write: puts the full values into a parameter, which may hold a part of them.
    """
    tensors = Stored.checkpoint(folder / "model")
    for name, parameter in model.named_parameters():
        write(parameter, tensors[name].to(parameter.dtype))


def extends(key: str) -> bool:
    """Whether a key of the model decides positions, and no weight."""
    return any(part in key for part in EXTENDS)


def check_tokenizer(
    key: str, folder: Path, tokenizer: Path, *, remedy: str = "prepare the data"
) -> None:
    """See that the tokenizers of a checkpoint and of the data give the same ids.

    Args:
        key: what names the checkpoint, with its value.
        folder: the checkpoint.
        tokenizer: the ``tokenizer.json`` of the data.
        remedy: what to do with the tokenizer of the checkpoint.

    Raises:
        ValueError: they do not.
    """
    theirs = folder / "tokenizer.json"
    if _known(theirs) != _known(tokenizer):
        raise ValueError(
            f"{key} has another tokenizer than the data: {remedy} with tokenizer={theirs}"
        )


def _known(tokenizer: Path) -> dict[str, int]:
    """What decides the ids of a text: the model of a tokenizer."""
    return json.loads(tokenizer.read_text(encoding="utf-8"))["model"]
