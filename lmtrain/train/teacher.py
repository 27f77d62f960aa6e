"""The teacher of a run: a checkpoint that fits, and its model beside the one that learns."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lmtrain.config import RunConfig, read
from lmtrain.models.decoder import Decoder
from lmtrain.models.pattern import parse
from lmtrain.ops.backend import bind
from lmtrain.train.checkpoint import find
from lmtrain.train.invariants import check_initialized
from lmtrain.train.manifest import NAME
from lmtrain.train.start import check_tokenizer, copy_weights

if TYPE_CHECKING:
    from lmtrain.models.config import ModelConfig
    from lmtrain.train.engines import Engine


@dataclass(frozen=True)
class Teacher:
    """A checkpoint that teaches."""

    folder: Path
    hash: str
    """Of its manifest, and so of all that is in it, wherever it lies."""


def find_teacher(config: RunConfig, tokenizer: Path) -> Teacher | None:
    """The checkpoint that a run can learn from; None where none is asked for.

    Args:
        config: of the run, resolved.
        tokenizer: the ``tokenizer.json`` of its data.

    Raises:
        ValueError: there is no checkpoint, or its model or tokenizer does not fit.
    """
    teacher = config.distill.teacher
    if teacher is None:
        return None
    folder, key = find(Path(teacher), "distill.teacher"), f"distill.teacher={teacher}"
    there = _model(folder, config)
    check_tokenizer(key, folder, tokenizer)
    if config.distill.layers_steps:
        _check_mixers(config.model, there, key)
    return Teacher(folder, hashlib.sha256((folder / NAME).read_bytes()).hexdigest())


def teacher_model(config: RunConfig) -> ModelConfig | None:
    """The model of a run's teacher; None where there is none.

    Raises:
        ValueError: there is no checkpoint, or its model is of another shape.
    """
    teacher = config.distill.teacher
    return None if teacher is None else _model(find(Path(teacher), "distill.teacher"), config)


def _model(folder: Path, config: RunConfig) -> ModelConfig:
    """The model of a checkpoint that teaches a run, whose shape it has."""
    there = read(folder / "config.yaml").model
    for name in ("d_model", "n_layers", "vocab_size"):
        theirs, ours = getattr(there, name), getattr(config.model, name)
        if theirs != ours:
            raise ValueError(
                f"distill.teacher={config.distill.teacher} has model.{name}={theirs}, this run "
                f"{ours}: a teacher is the model that `lmtrain import pattern=…` was given, "
                "imported without a pattern"
            )
    return there


def _check_mixers(model: ModelConfig, teacher: ModelConfig, key: str) -> None:
    """See that there are new mixers, each with one to learn from."""
    new, theirs = new_mixers(model, teacher), parse(teacher.pattern, teacher.n_layers)
    words, remedy = f"model.pattern={teacher.pattern}", "say distill.layers_steps=0"
    if not new:
        raise ValueError(
            f"{key} has {words}, and this run's {model.pattern} no other mixers: {remedy}"
        )
    ours = parse(model.pattern, model.n_layers)
    for i in new:
        if len(theirs[i].mixers) != 1 or not ours[i].mixers:
            raise ValueError(
                f"{key} has {words}, and block {i} is {theirs[i]} there and {ours[i]} here, no two "
                f"mixers that could be compared: {remedy}"
            )


def new_mixers(model: ModelConfig, teacher: ModelConfig) -> list[int]:
    """Blocks that mix in another way than the teacher's, which also mix."""
    specs = (parse(each.pattern, each.n_layers) for each in (model, teacher))
    pairs = enumerate(zip(*specs, strict=True))
    return [i for i, (ours, theirs) in pairs if ours.mixers != theirs.mixers]


def open_teacher(teacher: Teacher, config: RunConfig, engine: Engine) -> Decoder:
    """The teacher's model, spread as the engine holds models; it has no gradients."""
    with torch.device("meta"):
        model = Decoder(read(teacher.folder / "config.yaml").model)
    bind(model, config.ops, engine.device, engine.dtype)
    engine.prepare(model.requires_grad_(requires_grad=False), trains=False)
    copy_weights(model, teacher.folder, write=engine.write)
    check_initialized(model)
    return model
