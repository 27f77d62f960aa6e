"""Tensors in and out of safetensors files, sharded by any number of processes.

Each process copies the shards it holds to the host and writes them into files of its own, without a
word to the others; `torch.distributed.checkpoint` reads them, and takes just the parts that a
process needs of every file. Nothing is pickled.
"""

from __future__ import annotations

import json
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from torch import nn

OFFSETS = "DCP_SHARDING_INFO"
"""The key of a file's metadata in which torch's reader looks for the place of every shard."""


@dataclass(frozen=True)
class Shard:
    """A rectangle of a tensor, and where in the whole it begins."""

    values: Tensor
    offset: tuple[int, ...]


@dataclass(frozen=True)
class Snapshot:
    """A copy of what one process writes of a checkpoint, on the host.

    Training may go on while it is written.
    """

    rank: int
    parts: dict[str, dict[str, Shard]]
    """Shards by folder and name."""

    @classmethod
    def of(
        cls, parts: Mapping[str, Iterable[tuple[str, Tensor]]], *, rank: int, world: int
    ) -> Snapshot:
        """Copy what this process has to write of the named tensors of every folder.

        A shard is written by the first process that holds it, a tensor that all hold whole by the
        one that has written the least.
        """
        copied = {
            part: {
                name: Shard(_to_host(shard.values), shard.offset)
                for name, shard in _ours(tensors, rank, world)
            }
            for part, tensors in parts.items()
        }
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # copies run beside the host
        return cls(rank, copied)

    def write(self, folder: Path) -> None:
        """Write ``folder/PART/shard_RANK.safetensors``; no process waits for another."""
        for part, shards in self.parts.items():
            (folder / part).mkdir(parents=True, exist_ok=True)
            offsets = {name: {"saved_offsets": shard.offset} for name, shard in shards.items()}
            save_file(
                {name: shard.values for name, shard in shards.items()},
                folder / part / f"shard_{self.rank:05d}.safetensors",
                metadata={"format": "pt", OFFSETS: json.dumps(offsets)},
            )


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by name; they share their storage with the model."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers of each parameter, as ``exp_avg.NAME`` and so on."""
    unknown = [name for name, p in model.named_parameters() if p not in optimizer.state]
    assert not unknown, f"the optimizer does not know {unknown}"
    return {
        f"{key}.{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def shape(parameter: Tensor) -> torch.Size:
    """Of a whole parameter, also where ZeRO holds it and leaves an empty one."""
    return getattr(parameter, "ds_shape", parameter.shape)


def read_tensors(folder: Path, tensors: dict[str, Tensor], *, world: int = 1) -> None:
    """Fill tensors in place, whatever number of processes wrote them.

    Raises:
        ValueError: the files are damaged, or hold other names or shapes.
    """
    check_stored(folder, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    fill(folder, tensors, world=world)


def fill(folder: Path, tensors: dict[str, Tensor], *, world: int = 1) -> None:
    """Fill tensors that are known to be in ``folder``; with a ``world``, all of it calls this."""
    with _quietly():
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=world == 1)


def check_stored(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """See that a folder holds tensors of these names and shapes, and no others.

    Raises:
        ValueError: it does not, or its files are damaged.
    """
    try:
        metadata = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except Exception as error:
        raise ValueError(f"{folder} cannot be read: {error}") from error
    stored = {
        name: tuple(entry.size)
        for name, entry in metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    for name in sorted(stored.keys() | shapes.keys()):
        here, there = shapes.get(name, "absent"), stored.get(name, "absent")
        if here != there:
            raise ValueError(
                f"{folder} is of another model: {name} is {there} there and {here} in this "
                "configuration"
            )


def start_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Make the optimizer's state, as it is before a step, by a step that changes nothing."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    forget(optimizer)


def forget(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer remember no step, as before the first one."""
    for remembered in optimizer.state.values():
        for value in remembered.values():
            value.zero_()


def _ours(
    tensors: Iterable[tuple[str, Tensor]], rank: int, world: int
) -> Iterator[tuple[str, Shard]]:
    """The shards that this process writes."""
    written = [0] * world  # elements that each process writes of tensors that all hold
    for name, tensor in tensors:
        if isinstance(tensor, DTensor):
            shard = _first_held(tensor)
            if shard is not None:
                yield name, shard
            continue
        writer = written.index(min(written))
        written[writer] += tensor.numel()
        if writer == rank:
            yield name, Shard(tensor, (0,) * tensor.ndim)


def _first_held(tensor: DTensor) -> Shard | None:
    """The shard of this process; None if it is empty or a process before holds the same."""
    mesh, placements = tensor.device_mesh, tensor.placements
    coordinate = mesh.get_coordinate()
    assert coordinate is not None, "this process is outside the mesh"
    held_before = any(
        at > 0 for at, placed in zip(coordinate, placements, strict=True) if placed.is_replicate()
    )
    _, offset = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
    values = tensor.to_local()
    return None if held_before or not values.numel() else Shard(values, tuple(offset))


def _to_host(tensor: Tensor) -> Tensor:
    """A copy; from a GPU it runs until the device is synchronised."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor.detach(), non_blocking=True)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warning that one process is one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
