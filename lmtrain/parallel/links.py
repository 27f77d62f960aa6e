"""How fast ranks speak and kernels compute: what the cost model divides by, and its file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Self, cast


@dataclass(frozen=True)
class Link:
    """One direction of a link as a rank sees it: ``latency + bytes / speed``."""

    latency_seconds: float
    bytes_per_second: float

    def seconds(self, size: float, messages: int = 1) -> float:
        """Time of ``messages`` one after the other, ``size`` bytes in all."""
        return messages * self.latency_seconds + size / self.bytes_per_second


@dataclass(frozen=True)
class Links:
    """Both classes of link, and which ranks share a host: neighbours, equally many on each.

    A class that no two ranks have may be None.
    """

    ranks_per_host: int
    inside: Link | None
    across: Link | None

    @classmethod
    def uniform(cls, link: Link) -> Self:
        """Every pair of ranks has the same link."""
        return cls(1, None, link)

    def shares_host(self, degree: int) -> bool:
        """Whether no block of ``degree`` neighbours, cut from rank 0 on, lies on two hosts."""
        return self.ranks_per_host % degree == 0

    def between(self, *, inside: bool) -> Link:
        """The link of that class.

        Raises:
            ValueError: it is not known.
        """
        link = self.inside if inside else self.across
        if link is None:
            kind = "inside a host" if inside else "across hosts"
            raise ValueError(
                f"parallel.links knows no link {kind} (ranks_per_host={self.ranks_per_host}): "
                "measure with `lmtrain bench what=links` on as many hosts as the run will have"
            )
        return link

    def within(self, degree: int) -> Link:
        """The slowest link of a block of ``degree`` neighbours."""
        return self.between(inside=self.shares_host(degree))


@dataclass(frozen=True)
class Rates:
    """What a rank reaches: FLOP/s in its kernels, bytes/s in its memory."""

    attention: float
    scan: float
    memory: float
    products: float | None = None
    """Of large matrix products; None where they were not measured."""


NVLINK = Link(10e-6, 450e9)
"""Inside a machine of 8 H100 or H200."""
INFINIBAND = Link(10e-6, 50e9)
"""400 Gb/s for every GPU."""
H100 = Rates(attention=600e12, scan=100e12, memory=3e12)
"""In bf16. The scan is an estimate."""

GLOO = Link(300e-6, 1.0e9)
"""Processes of one machine, over its loopback interface."""
ETHERNET = Link(500e-6, 117e6)
"""1 Gb/s."""
CPU_CORE = Rates(attention=30e9, scan=15e9, memory=8e9)
"""In fp32, one core."""


def typical(device: str, ranks_per_host: int) -> tuple[Links, Rates]:
    """What to assume where nothing was measured, for ``cuda`` or ``cpu``."""
    if device == "cuda":
        return Links(ranks_per_host, NVLINK, INFINIBAND), H100
    return Links(ranks_per_host, GLOO, ETHERNET), CPU_CORE


def known(path: str | None, device: str, ranks_per_host: int) -> tuple[Links, Rates]:
    """What the file of ``parallel.links`` says, or what is typical where there is none.

    Raises:
        ValueError: the file is missing or damaged.
    """
    return read_links(Path(path)) if path else typical(device, ranks_per_host)


def write_links(
    path: Path, links: Links, rates: Rates, record: dict[str, Any] | None = None
) -> None:
    """Write what was measured, for `read_links`, and for people the ``record`` of how."""
    data = {**asdict(links), "rates": asdict(rates)}
    if record is not None:
        data["record"] = record
    path.write_text(json.dumps(data, indent=1) + "\n")


def read_links(path: Path) -> tuple[Links, Rates]:
    """What `write_links` wrote.

    Raises:
        ValueError: the file is missing, is not JSON, or an entry is missing, unknown or not
            positive.
    """
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"parallel.links={path} cannot be read as JSON: {error}") from error
    if isinstance(data, dict):
        cast("dict[str, Any]", data).pop("record", None)
    entries = _entries(path, "the file", data, {"ranks_per_host", "inside", "across", "rates"})
    hosts = entries["ranks_per_host"]
    if type(hosts) is not int or hosts < 1:
        raise ValueError(f"parallel.links={path}: ranks_per_host={hosts!r} must be at least 1")
    inside, across = (_link(path, name, entries[name]) for name in ("inside", "across"))
    return Links(hosts, inside, across), Rates(**_rates(path, entries["rates"]))


def _rates(path: Path, data: Any) -> dict[str, float]:
    """Older files know no matrix products."""
    keys = {"attention", "scan", "memory"}
    if isinstance(data, dict):
        known = {k: v for k, v in cast("dict[str, Any]", data).items() if v is not None}
        return _numbers(path, "rates", known, keys | ({"products"} & known.keys()))
    return _numbers(path, "rates", data, keys)


def _link(path: Path, name: str, data: Any) -> Link | None:
    if data is None:
        return None
    return Link(**_numbers(path, name, data, {"latency_seconds", "bytes_per_second"}))


def _numbers(path: Path, name: str, data: Any, keys: set[str]) -> dict[str, float]:
    entries = _entries(path, name, data, keys)
    for key, value in entries.items():
        if type(value) not in (int, float) or not (isfinite(value) and value > 0):
            raise ValueError(f"parallel.links={path}: {name}.{key}={value!r} must be positive")
    return {key: float(value) for key, value in entries.items()}


def _entries(path: Path, name: str, data: Any, keys: set[str]) -> dict[str, Any]:
    found = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
    for problem, wrong in (
        ("lacks", sorted(keys - found.keys())),
        ("has an unknown", sorted(found.keys() - keys)),
    ):
        if wrong:
            raise ValueError(
                f"parallel.links={path}: {name} {problem} {', '.join(wrong)}; write it again with "
                "`lmtrain bench what=links`"
            )
    return found
