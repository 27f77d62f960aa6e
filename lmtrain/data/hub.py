"""Datasets of the Hugging Face hub, of its cache, or of a folder, through ``datasets``.

A dataset that is downloaded lies in Arrow files, and those are the input. A dataset that streams
has shards, and every worker opens the stream anew for each that it reads. Code that comes with a
dataset is never run.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmtrain.data.columns import arrow_rows
from lmtrain.data.units import Input, UnitKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.data.prepare_config import PrepareConfig

HUB = "hf:"
"""How an ``input`` that is a dataset begins."""


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """One split of a dataset."""

    name: str
    config: str | None
    split: str
    revision: str | None
    field: str

    @classmethod
    def of(cls, config: PrepareConfig) -> HubDataset:
        """The dataset that ``input=hf:NAME`` names."""
        name = config.input.removeprefix(HUB)
        return cls(
            name=str(Path(name).expanduser()) if name[:1] in ("~", ".", "/") else name,
            config=config.dataset_config,
            split=config.dataset_split,
            revision=config.revision,
            field=config.field,
        )

    @property
    def title(self) -> str:
        """What the manifest calls it."""
        parts = (self.name, self.config, self.split, self.revision)
        return HUB + " ".join(part for part in parts if part)

    def downloaded(self) -> Input:
        """Its Arrow files, in the cache of ``datasets`` or where it was saved.

        Raises:
            ValueError: it cannot be had, or the files hold more than the split.
        """
        dataset = self._load(streaming=False)
        files = tuple(Path(entry["filename"]) for entry in dataset.cache_files)
        rows = sum(rows for file in files for rows, _ in arrow_rows(file, self.field))
        if rows != dataset.num_rows:
            raise ValueError(
                f"dataset_split={self.split} is a part of the files of {self.name}: choose a whole "
                "split, and max_documents, or streaming=true"
            )
        return Input(self.title, UnitKind.arrow, files)

    def streamed(self) -> Input:
        """Its shards, read from where they are.

        Raises:
            ValueError: it cannot be had, or has no such column.
        """
        dataset = self._load(streaming=True)
        names: list[str] | None = dataset.column_names
        if names and self.field not in names:
            raise ValueError(
                f"field={self.field} is no column of {self.title}: choose one of {', '.join(names)}"
            )
        return Input(self.title, UnitKind.stream, shards=dataset.num_shards)

    def read_shard(self, shard: int) -> Iterator[object]:
        """The values of the column in one shard of the stream.

        Raises:
            ValueError: it cannot be had.
        """
        dataset = self._load(streaming=True)
        part = dataset.shard(num_shards=dataset.num_shards, index=shard)
        return (row.get(self.field) for row in part)

    def _load(self, *, streaming: bool) -> Any:
        try:
            datasets: Any = import_module("datasets")
        except ImportError as error:
            raise ValueError(
                f"input={HUB}{self.name} needs the package datasets: pip install 'lmtrain[hub]'"
            ) from error
        folder = Path(self.name)
        try:
            if (folder / "state.json").is_file():
                loaded = datasets.load_from_disk(str(folder))
            elif (folder / "dataset_dict.json").is_file():
                loaded = datasets.load_from_disk(str(folder))[self.split]
            else:
                return datasets.load_dataset(
                    self.name,
                    self.config,
                    split=self.split,
                    revision=self.revision,
                    streaming=streaming,
                )
        except Exception as error:  # the library, and those below it, raise many kinds
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"input={self.title} cannot be loaded ({type(error).__name__}: {reason}): check "
                "the name, dataset_config, dataset_split and revision, and the connection"
            ) from error
        return loaded.to_iterable_dataset() if streaming else loaded


def dataset_of(config: PrepareConfig) -> HubDataset | None:
    """The dataset that the input is, if it is one."""
    return HubDataset.of(config) if config.input.startswith(HUB) else None
