"""Tensors in and out of safetensors files, sharded by any number of processes.

`torch.distributed.checkpoint` does the work: each process writes what it holds, and a reading
process takes just the parts that it needs of every file. Nothing is pickled.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor, nn


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


def read_tensors(folder: Path, tensors: dict[str, Tensor], *, world: int = 1) -> None:
    """Fill tensors in place, whatever number of processes wrote them.

    Raises:
        ValueError: the files are damaged, or hold other names or shapes.
    """
    reader = HuggingFaceStorageReader(str(folder))
    try:
        stored = {
            name: entry.size
            for name, entry in reader.read_metadata().state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
    except Exception as error:
        raise ValueError(f"{folder} cannot be read: {error}") from error
    for name in sorted(stored.keys() | tensors.keys()):
        here = tuple(tensors[name].shape) if name in tensors else "absent"
        there = tuple(stored[name]) if name in stored else "absent"
        if here != there:
            raise ValueError(
                f"{folder} is of another model: {name} is {there} there and {here} in this "
                "configuration"
            )
    with _quietly():
        load(tensors, storage_reader=reader, no_dist=world == 1)


def write_tensors(folder: Path, tensors: dict[str, Tensor], *, world: int) -> None:
    """Write tensors as safetensors, each process its own shards; every process calls this."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=world > 1)
    with _quietly():
        save(tensors, storage_writer=writer, no_dist=world == 1)


def start_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Make the optimizer's state by a step that changes nothing."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warning that one process is one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
