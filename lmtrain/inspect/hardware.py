"""The machines that a run is planned for: a card's data sheet, a measured file, or this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

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
        ValueError: the file cannot be read or lacks the speed of matrix products, or the GPU that
            is here has no data sheet.
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
        return _measured(config, limit)
    from lmtrain.probe import probe

    processes = _processes(config)
    links = typical("cpu", processes)[0]
    if config.parallel.links:
        links = read_links(Path(config.parallel.links))[0]
    share = _host_memory() // processes
    return Hardware("CPU", limit or share, probe(config.launch.threads), links, cuda=False)


def _here() -> Card | None:
    """The card that is here, with the memory that it has here: of an edition, or of a part of it.

    Raises:
        ValueError: its data sheet is not known.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    card = card_named(name)
    if card is None:
        raise ValueError(
            f"hardware=auto finds {name}, whose data sheet is not known: name one with hardware="
            f"{'|'.join(CARDS)}|cpu, or a file that `lmtrain bench what=links out=FILE` writes here"
        )
    return replace(card, name=name, memory=min(card.memory, torch.cuda.mem_get_info()[1]))


def _measured(config: InspectConfig, limit: int | None) -> Hardware:
    """Speeds from a file, and the memory of what is here."""
    import torch

    path = config.hardware
    links, rates = read_links(Path(path))
    if rates.products is None:
        raise ValueError(
            f"hardware={path} lacks rates.products, the speed of matrix products: write it again "
            "with `lmtrain bench what=links`"
        )
    cuda = torch.cuda.is_available()
    near = links.ranks_per_host
    together = near if config.nodes else min(near, _processes(config))
    here = torch.cuda.mem_get_info()[1] if cuda else _host_memory() // together
    return Hardware(path, limit or here, rates, links, cuda=cuda)


def _processes(config: InspectConfig) -> int:
    return config.world or max(config.launch.nproc, config.parallel.sequence)


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
