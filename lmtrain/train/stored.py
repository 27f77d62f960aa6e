"""Tensors that lie in safetensors files, read one at a time, and written as a stream."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

if TYPE_CHECKING:
    from torch import Tensor

Read = Callable[[str], torch.Tensor]
"""A tensor by name."""

INDEX = "model.safetensors.index.json"
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
"""What the format calls a dtype."""


@dataclass(frozen=True)
class Piece:
    """A rectangle of a tensor, and the file that holds it."""

    file: str
    name: str
    """In that file."""
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


class Stored(Mapping[str, torch.Tensor]):
    """Tensors by name; looking one up reads it, and nothing is kept."""

    def __init__(self, pieces: dict[str, list[Piece]]) -> None:
        self._pieces = pieces
        self.shapes = {
            name: tuple(map(max, zip(*(_ends(piece) for piece in held), strict=True)))
            for name, held in pieces.items()
        }
        for name, held in pieces.items():
            if sum(prod(piece.sizes) for piece in held) != prod(self.shapes[name]):
                files = ", ".join(sorted({Path(piece.file).name for piece in held}))
                raise ValueError(f"{name} is not whole in {files}: a file of a process is missing")

    @classmethod
    def checkpoint(cls, folder: Path) -> Stored:
        """The ``model/`` of a checkpoint, by however many processes it was written.

        Raises:
            ValueError: files are damaged, or one is missing.
        """
        try:
            metadata = HuggingFaceStorageReader(str(folder)).read_metadata()
        except Exception as error:
            raise ValueError(f"{folder} cannot be read: {error}") from error
        if not metadata.storage_data:
            raise ValueError(f"{folder} holds no safetensors: the checkpoint is not whole")
        pieces: dict[str, list[Piece]] = {}
        for index, held in metadata.storage_data.items():
            piece = Piece(
                held.relative_path, index.fqn, tuple(index.offset or ()), tuple(held.shape)
            )
            pieces.setdefault(index.fqn, []).append(piece)
        return cls(pieces)

    @classmethod
    def folder(cls, folder: Path) -> Stored:
        """A folder of transformers: one file, else those of its index. No other file is opened.

        Raises:
            ValueError: there is none, one is missing or damaged, or a name leads out of the folder.
        """
        pieces: dict[str, list[Piece]] = {}
        for file in _files(folder):
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118  it is no mapping
                        shape = tuple(opened.get_slice(name).get_shape())
                        piece = Piece(str(file), name, (0,) * len(shape), shape)
                        if name in pieces:
                            raise ValueError(f"{folder} holds {name} twice")
                        pieces[name] = [piece]
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{file} cannot be read: {error}") from error
        return cls(pieces)

    def expect(self, wanted: Mapping[str, tuple[int, ...]], what: str) -> None:
        """See that these tensors are there, in these shapes, and no others.

        Raises:
            ValueError: ``what``, and the first that differs.
        """
        for name in sorted(wanted.keys() | self.shapes.keys()):
            here, there = wanted.get(name, "absent"), self.shapes.get(name, "absent")
            if here != there:
                raise ValueError(f"{what}: {name} is {there}, expected {here}")

    def without(self, *names: str) -> Stored:
        """The others."""
        return Stored({n: held for n, held in self._pieces.items() if n not in names})

    def with_prefix(self, old: str, new: str) -> Stored:
        """The same tensors, where names that begin with ``old`` begin with ``new``."""
        pieces = self._pieces.items()
        return Stored(
            {new + n.removeprefix(old) if n.startswith(old) else n: held for n, held in pieces}
        )

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor, in the dtype that is stored."""
        first, *others = (_read(piece) for piece in self._pieces[name])
        if not others:
            return first
        whole = first.new_empty(self.shapes[name])
        for piece, part in zip(self._pieces[name], (first, *others), strict=True):
            at = zip(piece.offsets, piece.sizes, strict=True)
            whole[tuple(slice(start, start + size) for start, size in at)] = part
        return whole

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self._pieces)

    def __len__(self) -> int:
        """How many."""
        return len(self._pieces)


def write_shard(path: Path, entries: Mapping[str, Tensor], tensors: Iterable[Tensor]) -> None:
    """A safetensors file, one tensor in memory at a time (huggingface.co/docs/safetensors).

    Args:
        path: of the file.
        entries: names in order, with tensors of the shapes and dtypes to come; meta will do.
        tensors: the contents in that order.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, entry in entries.items():
        stop = start + entry.nbytes
        shape = list(entry.shape)
        header[name] = {
            "dtype": DTYPES[entry.dtype],
            "shape": shape,
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry, tensor in zip(entries.values(), tensors, strict=True):
            assert (entry.shape, entry.dtype) == (tensor.shape, tensor.dtype)
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)


def _read(piece: Piece) -> Tensor:
    with safe_open(piece.file, framework="pt") as opened:
        return opened.get_tensor(piece.name)


def _ends(piece: Piece) -> tuple[int, ...]:
    """Where a piece ends on each dimension."""
    return tuple(start + size for start, size in zip(piece.offsets, piece.sizes, strict=True))


def _files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / INDEX
    if single.is_file():
        return [single]
    if not index.is_file():
        raise ValueError(
            f"{folder} has neither {single.name} nor {INDEX}: only safetensors are read"
        )
    try:
        named = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is not an index of safetensors: {error}") from error
    for name in named:
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{index} names {name}, which is not a file of its folder")
        if not (folder / name).is_file():
            raise ValueError(f"{index} names {name}, which is missing")
    return [folder / name for name in named]
