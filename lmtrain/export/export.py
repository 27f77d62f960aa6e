"""``lmtrain export``: a checkpoint as a folder that transformers loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lmtrain import config as configuration
from lmtrain.data.tokenize import end_of_text, load_tokenizer, vocab_size
from lmtrain.export.card import card
from lmtrain.export.custom import CUSTOM
from lmtrain.export.folder import partial
from lmtrain.export.links import Link
from lmtrain.export.native import NATIVE
from lmtrain.export.stored import INDEX, Stored, write_shard
from lmtrain.export.tokenizer import write_tokenizer
from lmtrain.export.verify import OUTSIDE, rounded, stored, verify
from lmtrain.settings.export import Home, StoredDtype
from lmtrain.train.checkpoint import find

if TYPE_CHECKING:
    from lmtrain.export.targets import Json, Target
    from lmtrain.models.config import ModelConfig
    from lmtrain.settings.export import ExportConfig

DTYPES = {StoredDtype.fp32: torch.float32, StoredDtype.bf16: torch.bfloat16}


@dataclass(frozen=True)
class Trained:
    """A checkpoint, opened; its tensors are read when they are looked up."""

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
        folder = find(path)
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
        expect(tensors, run.model, folder / "model")
        return cls(folder, run, tensors, around.get("begin_of_text"), end)

    @cached_property
    def vocabulary(self) -> int:
        """Tokens that the tokenizer knows; the embedding may have more rows."""
        return vocab_size(load_tokenizer(self.folder / "tokenizer.json"))


def expect(tensors: Stored, model: ModelConfig, where: Path) -> None:
    """Names and shapes of every tensor of a model.

    Raises:
        ValueError: one is missing, left over, or of another shape.
    """
    wanted = {name: tuple(x.shape) for name, x in blank(model).items()}
    for name in sorted(wanted.keys() | tensors.shapes.keys()):
        here, there = wanted.get(name, "absent"), tensors.shapes.get(name, "absent")
        if here != there:
            raise ValueError(f"{where} is of another model: {name} is {there}, expected {here}")


def blank(model: ModelConfig) -> dict[str, Tensor]:
    """The parameters of a model, without storage."""
    from lmtrain.models.decoder import Decoder

    with torch.device("meta"):
        return {name: p.detach() for name, p in Decoder(model).named_parameters()}


@dataclass(frozen=True)
class Shard:
    """One file to write."""

    links: tuple[Link, ...]
    entries: dict[str, Tensor]
    """Names, with meta tensors of the shapes and dtypes to come."""


def choose(model: ModelConfig, home: Home) -> Target:
    """The first target without a blocker, or our own code.

    Raises:
        ValueError: no native target takes the stack, and one was asked for.
    """
    if home is Home.custom:
        return CUSTOM
    blocked = {target.model_type: target.blockers(model) for target in NATIVE}
    free = [target for target in NATIVE if not blocked[target.model_type]]
    if free or home is Home.auto:
        return [*free, CUSTOM][0]
    nearest = min(blocked, key=lambda name: len(blocked[name]))
    why = "; ".join(blocked[nearest])
    raise ValueError(
        f"target=native: no model of transformers computes this stack. The nearest is {nearest}: "
        f"{why}. Say target=custom for our own code in the folder"
    )


def plan(target: Target, model: ModelConfig, dtype: torch.dtype, limit: int) -> list[Shard]:
    """The files, none larger than ``limit`` unless a single link is; known before any is read."""
    ours = blank(model)
    shards: list[Shard] = []
    size = inf
    for each in target.links(model):
        with torch.device("meta"):
            theirs = each.rewrite.out(tuple(ours[name] for name in each.ours))
        entries = {n: stored(x, dtype) for n, x in zip(each.theirs, theirs, strict=True)}
        more = sum(x.nbytes for x in entries.values())
        if size + more > limit:
            shards.append(Shard((), {}))
            size = 0
        shards[-1] = Shard((*shards[-1].links, each), shards[-1].entries | entries)
        size += more
    return shards


def tensors(shard: Shard, source: Stored, dtype: torch.dtype) -> Iterator[Tensor]:
    """The contents of a file, a link at a time."""
    for each in shard.links:
        theirs = each.rewrite.out(tuple(source[name].float() for name in each.ours))
        yield from (stored(x, dtype) for x in theirs)


def names(count: int) -> list[str]:
    """The names of the files."""
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def write_weights(out: Path, shards: list[Shard], source: Stored, dtype: torch.dtype) -> None:
    """The files, and the index where there are several."""
    where: dict[str, str] = {}
    for name, shard in zip(names(len(shards)), shards, strict=True):
        write_shard(out / name, shard.entries, tensors(shard, source, dtype))
        where |= dict.fromkeys(shard.entries, name)
    if len(shards) > 1:
        total = sum(x.nbytes for shard in shards for x in shard.entries.values())
        write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def describe(target: Target, trained: Trained, dtype: torch.dtype) -> Json:
    """``config.json``."""
    return {
        "architectures": [target.architecture],
        "model_type": target.model_type,
        **target.describe(trained.run.model),
        "max_position_embeddings": trained.run.curriculum.max_length,
        "bos_token_id": trained.begin_of_text,
        "eos_token_id": trained.end_of_text,
        "pad_token_id": None,
        "use_cache": True,
        "dtype": str(dtype).removeprefix("torch."),
    }


def generation(trained: Trained) -> Json:
    """``generation_config.json``: rows of the embedding that are no token are never drawn."""
    rows = trained.run.model.vocab_size
    assert rows is not None
    unused = list(range(trained.vocabulary, rows))
    return {
        "bos_token_id": trained.begin_of_text,
        "eos_token_id": trained.end_of_text,
        "pad_token_id": trained.end_of_text,
        **({"suppress_tokens": unused} if unused else {}),
    }


def export(config: ExportConfig) -> Path | None:
    """Write the folder, prove it, and give it its name.

    Returns:
        The folder; None if nothing was to be written.

    Raises:
        ValueError: the configuration has problems, the stack has no home, or the folder does not
            compute what was trained; then nothing of that name is left.
    """
    configuration.require(config.check())
    assert config.checkpoint is not None
    trained = Trained.open(Path(config.checkpoint))
    model, dtype = trained.run.model, DTYPES[config.dtype]
    target = choose(model, config.target)
    shards = plan(target, model, dtype, config.shard_bytes)
    tell(target, shards)
    if config.dry or config.out is None:
        for other in NATIVE:
            print(f"  {other.model_type}: {'; '.join(other.blockers(model)) or 'fits'}")
        return None
    out = Path(config.out)
    with partial(out, key="out") as folder:
        write_weights(folder, shards, trained.tensors, dtype)
        write_json(folder / "config.json", describe(target, trained, dtype))
        write_json(folder / "generation_config.json", generation(trained))
        write_tokenizer(
            folder,
            trained.folder / "tokenizer.json",
            begin=trained.begin_of_text,
            end=trained.end_of_text,
            longest=trained.run.curriculum.max_length,
        )
        for file in target.code:
            shutil.copyfile(OUTSIDE / file, folder / file)
        (folder / "README.md").write_text(
            card(
                trained.folder,
                trained.run,
                target,
                name=out.name,
                license_=config.license,
                parameters=sum(x.numel() for x in blank(model).values()),
            )
        )
        if config.verify:
            read = trained.tensors.__getitem__
            if dtype is not torch.float32:
                read = rounded(target.links(model), read, dtype)
            code = target is CUSTOM
            error = verify(folder, model, read, vocabulary=trained.vocabulary, code=code)
            print(f"verified: transformers alone gives the same logits to {error:.1e}")
    print(f"{out}: served by {target.served_by}")
    return out


def tell(target: Target, shards: list[Shard]) -> None:
    """Where it goes, and the files."""
    print(f"{target.architecture} ({target.model_type})")
    for name, shard in zip(names(len(shards)), shards, strict=True):
        size = sum(x.nbytes for x in shard.entries.values())
        print(f"  {name}: {len(shard.entries)} tensors, {size / 1e6:,.1f} MB")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """As transformers writes it."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
