"""The machines that a run is planned for: a card's data sheet, a measured file, or this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lmtrain.data.workers import usable_cores
from lmtrain.parallel.hardware import CARDS, GIB, Card, card_named
from lmtrain.parallel.links import Links, Rates, read_links, typical
from lmtrain.settings.engine import Precision

if TYPE_CHECKING:
    from lmtrain.config import InspectConfig


@dataclass(frozen=True)
class Hardware:
    """What one process has, and the links to the others."""

    name: str
    memory: int
    """Bytes."""
    rates: Rates
    """With the speed of matrix products."""
    links: Links
    cuda: bool

    @property
    def products(self) -> float:
        """FLOP/s of matrix products."""
        assert self.rates.products is not None
        return self.rates.products


def find(config: InspectConfig) -> Hardware:
    """What ``hardware`` names.

    Raises:
        ValueError: the file cannot be read, or lacks the speed of matrix products.
    """
    bf16 = config.engine.precision is Precision.bf16
    limit = None if config.memory is None else int(config.memory * GIB)
    card = CARDS.get(config.hardware)
    if config.hardware == "auto":
        card = _here()
    if card is not None:
        links = card.links
        if config.parallel.links:
            links = read_links(Path(config.parallel.links))[0]
        return Hardware(card.name, limit or card.memory, card.rates(bf16=bf16), links, cuda=True)
    if config.hardware not in ("auto", "cpu"):
        return _measured(config.hardware, limit)
    from lmtrain.probe import probe

    processes = config.world or max(config.launch.nproc, config.parallel.sequence)
    links = typical("cpu", processes)[0]
    if config.parallel.links:
        links = read_links(Path(config.parallel.links))[0]
    share = _host_memory() // processes
    return Hardware("CPU", limit or share, probe(config.launch.threads), links, cuda=False)


def _here() -> Card | None:
    import torch

    return card_named(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def _measured(path: str, limit: int | None) -> Hardware:
    """Speeds from a file, and the memory of what is here."""
    import torch

    links, rates = read_links(Path(path))
    if rates.products is None:
        raise ValueError(
            f"hardware={path} lacks rates.products, the speed of matrix products: write it again "
            "with `lmtrain bench what=links`"
        )
    cuda = torch.cuda.is_available()
    here = torch.cuda.mem_get_info()[1] if cuda else _host_memory() // max(1, usable_cores())
    return Hardware(path, limit or here, rates, links, cuda=cuda)


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
