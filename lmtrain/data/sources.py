"""Several stores as one: documents of all by their source, tokens by one range of positions."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lmtrain.data.store import Documents, Selection, Side, Store, open_store
from lmtrain.data.tasks.corpus import TaskCorpus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from lmtrain.data.config import DataConfig, MixScope, SourceConfig


class Sources:
    """Open stores by name, and how they are mixed.

    Positions count the tokens of the stores one after the other, in the order of their names.
    Everything goes by name, so the order in which a configuration lists them changes nothing.

    Args:
        stores: by name.
        configs: their weights and limits, by the same names.
        scope: where the weights hold.

    Raises:
        ValueError: they were not written by one tokenizer.
    """

    def __init__(
        self, stores: Mapping[str, Store], configs: Mapping[str, SourceConfig], scope: MixScope
    ) -> None:
        self.stores = {name: stores[name] for name in sorted(stores)}
        self.configs = {name: configs[name] for name in self.stores}
        self.scope = scope
        check_tokenizers({f"data.sources.{name}": store for name, store in self.stores.items()})
        sizes = [store.manifest.counts.tokens for store in self.stores.values()]
        self.begins: list[int] = np.cumsum([0, *sizes[:-1]]).tolist()

    @property
    def names(self) -> list[str]:
        """Of the sources, in the order of their positions."""
        return list(self.stores)

    @property
    def weights(self) -> list[float]:
        """Of the sources, summing to one."""
        total = sum(config.weight for config in self.configs.values())
        return [round(config.weight / total, 12) for config in self.configs.values()]

    @property
    def identity(self) -> dict[str, Any]:
        """What decides which tokens stand at which position, and how the sources are mixed."""
        found: dict[str, Any] = {"data.mix_scope": str(self.scope)}
        for (name, store), weight in zip(self.stores.items(), self.weights, strict=True):
            own = store.identity
            found["data.val_fraction"] = own.pop("data.val_fraction")
            found[f"data.sources.{name}.path"] = own.pop("data.source")
            found[f"data.sources.{name}.weight"] = weight
            found |= {f"{key} of {name}": value for key, value in own.items()}
        return found

    @property
    def folder(self) -> Path:
        """Of the first store; its ``tokenizer.json`` is that of all."""
        return self._first.folder

    @property
    def selection(self) -> Selection:
        """Which documents of every store are used."""
        return self._first.selection

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        return self._first.vocab_size

    @property
    def end_of_text(self) -> int:
        """The id that ends every document."""
        return self._first.end_of_text

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that wrote all of them."""
        return self._first.tokenizer()

    @cached_property
    def token_bytes(self) -> NDArray[np.int64] | None:
        """``[vocab]`` bytes of text that each id stands for; None if that is not a fixed number."""
        return self._first.token_bytes

    def documents(self, side: Side, name: str | None = None) -> Documents:
        """The documents of one side of the split: of one source, or of all in turn."""
        if name is None:
            every = [self.documents(side, each) for each in self.stores]
            return Documents(*(np.concatenate(part) for part in zip(*every, strict=True)))
        own = self.stores[name].documents(side)
        return own._replace(starts=own.starts + self.begins[self.names.index(name)])

    def read(self, starts: NDArray[np.int64], length: int) -> NDArray[Any]:
        """``[len(starts), length]`` tokens from each position on, in the integers of the stores."""
        tokens = np.empty((len(starts), length), self._first.manifest.dtype)
        for store, begin, here in self._shared(starts):
            tokens[here] = store.read(starts[here] - begin, length)
        return tokens

    def read_stretches(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[Any]:
        """``[sum(lengths)]`` tokens: stretches of documents, one after the other."""
        tokens = np.empty(int(lengths.sum()), self._first.manifest.dtype)
        for store, begin, here in self._shared(starts):
            there = np.repeat(here, lengths)
            tokens[there] = store.read_stretches(starts[here] - begin, lengths[here])
        return tokens

    @property
    def _first(self) -> Store:
        return next(iter(self.stores.values()))

    def _shared(self, starts: NDArray[np.int64]) -> list[tuple[Store, int, NDArray[np.bool_]]]:
        """The stores that hold some of the positions: store, its begin, and which ones."""
        numbers = np.searchsorted(self.begins, starts, side="right") - 1
        stores = list(self.stores.values())
        return [(stores[n], self.begins[n], numbers == n) for n in np.unique(numbers).tolist()]


Corpus = Store | Sources | TaskCorpus
"""What a run reads from."""


def targets_of(data: Corpus, length: int) -> int:
    """Targets of a piece of a document, padding and cut labels not counted."""
    return data.targets(length) if isinstance(data, TaskCorpus) else length


def open_data(config: DataConfig) -> Corpus:
    """The one source of the configuration, or its several sources.

    Raises:
        ValueError: a store is missing, incomplete, damaged, changed or empty, or they do not fit.
    """
    configs = config.named_sources
    if config.task.name is not None:
        return TaskCorpus.open(config)
    if not configs:
        return open_store(config)
    stores = {
        name: _open(f"data.sources.{name}.path", source.path, config)
        for name, source in configs.items()
    }
    return Sources(stores, configs, config.mix_scope)


def open_validation(config: DataConfig, data: Corpus) -> dict[str, Store]:
    """The stores that only validate, all of their documents, by name.

    Raises:
        ValueError: one cannot be opened, has another tokenizer, or is trained on.
    """
    whole = replace(config, val_fraction=1.0, max_documents=None, max_tokens=None)
    stores = {
        name: _open(f"data.validation.{name}", path, whole)
        for name, path in sorted(config.validation.items())
    }
    if not stores:
        return {}
    if isinstance(data, TaskCorpus):
        raise ValueError("data.validation is text and data.task is none: leave one of them out")
    trained = data.stores if isinstance(data, Sources) else {"": data}
    keys = {f"data.sources.{name}" if name else "data.source": at for name, at in trained.items()}
    for name, store in stores.items():
        check_tokenizers({**keys, f"data.validation.{name}": store})
        for key, other in keys.items():
            if other.manifest.checksum == store.manifest.checksum:
                raise ValueError(
                    f"data.validation.{name}={store.folder} is trained on as {key}: leave it out, "
                    "data.val_fraction holds back a part of it already"
                )
    return stores


def check_tokenizers(stores: Mapping[str, Store]) -> None:
    """See that stores, by their keys, were written by one tokenizer.

    Raises:
        ValueError: two were not.
    """
    (first, other), *rest = stores.items()
    for key, store in rest:
        this, that = store.manifest.tokenizer, other.manifest.tokenizer
        if this.sha256 != that.sha256 or store.vocab_size != other.vocab_size:
            raise ValueError(
                f"{key}={store.folder} and {first}={other.folder} were written by different "
                f"tokenizers, {this.name} and {that.name}: prepare one of them again with the "
                "tokenizer.json of the other"
            )


def _open(key: str, path: str, config: DataConfig) -> Store:
    try:
        return open_store(replace(config, source=path, sources={}))
    except ValueError as error:
        raise ValueError(f"{key}: {error}".replace("data.source=", "")) from error
