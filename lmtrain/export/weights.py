"""The files of weights: planned from shapes alone, then written a tensor at a time."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING

import torch

from lmtrain.export.trained import blank
from lmtrain.train.stored import INDEX, write_shard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from torch import Tensor

    from lmtrain.export.links import Link
    from lmtrain.export.targets import Target
    from lmtrain.models.config import ModelConfig
    from lmtrain.train.stored import Read

Entries = dict[str, torch.Tensor]
"""Names of theirs in order, with meta tensors of the shapes and dtypes to come."""


def entries(target: Target, model: ModelConfig, dtype: torch.dtype) -> Entries:
    """Every tensor of a folder."""
    ours = blank(model)
    found: Entries = {}
    with torch.device("meta"):
        for each in target.links(model):
            theirs = each.rewrite.out(tuple(ours[name] for name in each.ours))
            assert not found.keys() & set(each.theirs)
            found |= {n: stored(x, dtype) for n, x in zip(each.theirs, theirs, strict=True)}
    return found


def stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Matrices in ``dtype``; vectors (norms, decays, biases) stay fp32, which costs nothing."""
    return tensor.to(dtype) if tensor.dim() > 1 else tensor.float()


def plan(whole: Entries, limit: int) -> dict[str, Entries]:
    """Files by name, none larger than ``limit`` bytes unless a single tensor is."""
    shards: list[Entries] = [{}]
    for name, entry in whole.items():
        if shards[-1] and entry.nbytes + size(shards[-1]) > limit:
            shards.append({})
        shards[-1][name] = entry
    if len(shards) == 1:
        return {"model.safetensors": whole}
    count = len(shards)
    return {f"model-{i:05d}-of-{count:05d}.safetensors": s for i, s in enumerate(shards, 1)}


def size(shard: Entries) -> int:
    """Bytes."""
    return sum(entry.nbytes for entry in shard.values())


def write_weights(
    folder: Path, files: dict[str, Entries], links: Iterable[Link], read: Read, dtype: torch.dtype
) -> None:
    """The files, and the index where there are several."""
    contents = outgoing(links, read, dtype)
    for name, shard in files.items():
        write_shard(folder / name, shard, islice(contents, len(shard)))
    if len(files) > 1:
        where = {name: file for file, shard in files.items() for name in shard}
        total = sum(map(size, files.values()))
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def outgoing(links: Iterable[Link], read: Read, dtype: torch.dtype) -> Iterator[Tensor]:
    """Their tensors, in the order of the links; one link in memory at a time."""
    for each in links:
        theirs = each.rewrite.out(tuple(read(name).float() for name in each.ours))
        yield from (stored(x, dtype) for x in theirs)


def incoming(links: Iterable[Link], read: Read) -> Read:
    """Our tensors by name in fp32, each made of theirs when it is asked for."""
    by_name = {name: each for each in links for name in each.ours}

    def ours(name: str) -> Tensor:
        each = by_name[name]
        made = each.rewrite.back(tuple(read(theirs).float() for theirs in each.theirs))
        return made[each.ours.index(name)]

    return ours
