"""Launch parameters while they are tuned: what a run asked for, and others put in their place."""

from __future__ import annotations

import json
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from lmtrain_kernels import tuned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Launch = dict[str, Any]

WARPS = (2, 4, 8)
STAGES = (1, 2, 3, 4)
FACTORS = (0.5, 2)
"""What a tile size without candidates of its own is multiplied with."""


class Asked(NamedTuple):
    """A kernel, and the key that it looked its launch up with."""

    kernel: str
    key: tuple[tuple[str, int | str], ...]

    def __str__(self) -> str:
        return " ".join([self.kernel, *(f"{name}={value}" for name, value in self.key)])


class Launches:
    """Answers in place of the shipped table."""

    def __init__(self) -> None:
        self.asked: dict[Asked, Launch] = {}
        """What the shipped table says."""
        self.chosen: dict[Asked, Launch] = {}
        """What is answered instead."""

    def __call__(self, kernel: str, card: int, key: tuple[tuple[str, int | str], ...]) -> Launch:
        """The launch of one call."""
        asked = Asked(kernel, key)
        if asked not in self.asked:
            self.asked[asked] = row(asked, card)["launch"]
        return self.chosen.get(asked, self.asked[asked])

    @contextmanager
    def instead(self, asked: Asked, launch: Launch) -> Iterator[None]:
        """Meanwhile that kernel is launched so."""
        before = dict(self.chosen)
        self.chosen[asked] = launch
        try:
            yield
        finally:
            self.chosen = before


@contextmanager
def replaced() -> Iterator[Launches]:
    """Meanwhile all kernels of this process ask these."""
    lookup, launches = tuned._lookup, Launches()  # pyright: ignore[reportPrivateUsage]
    tuned._lookup = launches  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    try:
        yield launches
    finally:
        tuned._lookup = lookup  # pyright: ignore[reportPrivateUsage]


def row(asked: Asked, card: int) -> dict[str, Any]:
    """The first row of the shipped table that fits, as ``tuned`` finds it.

    Raises:
        ValueError: there is none.
    """
    wanted = dict(asked.key)
    for found in tuned._rows():  # pyright: ignore[reportPrivateUsage]
        fits = all(wanted.get(k) == v for k, v in found.get("key", {}).items())
        if found["kernel"] == asked.kernel and card in found.get("cards", [card]) and fits:
            return found
    raise ValueError(f"tuned.json has no row for {asked} on sm_{card}: add one")


def candidates(asked: Asked, card: int, most: int) -> list[Launch]:
    """Others than the shipped one: those that its row lists, else its neighbours.

    A row lists them as ``"candidates": {"num_warps": [4, 8], "BLOCK": [32, 64]}``, of which every
    combination is tried. Neighbours differ in warps and stages, or in one tile size.
    """
    found = row(asked, card)
    launch, listed = found["launch"], found.get("candidates")
    if listed:
        made = [
            launch | dict(zip(listed, values, strict=True)) for values in product(*listed.values())
        ]
    else:
        pairs = product(WARPS, STAGES if "num_stages" in launch else (None,))
        made = [
            launch | {"num_warps": warps} | ({} if stages is None else {"num_stages": stages})
            for warps, stages in pairs
        ]
        tiles = [k for k in launch if k not in ("num_warps", "num_stages")]
        made[:0] = [
            launch | {tile: int(launch[tile] * factor)}
            for tile in tiles
            for factor in FACTORS
            if launch[tile] * factor >= 1
        ]
    return [other for other in made if other != launch][:most]


def write(path: Path, card: int, best: dict[Asked, Launch]) -> None:
    """Put rows for one card before those that fit any; kernels stay in alphabetical order."""
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    for asked, launch in best.items():
        mine = {"kernel": asked.kernel, "key": dict(asked.key), "cards": [card], "launch": launch}
        about = ("kernel", "key", "cards")
        rows = [r for r in rows if any(r.get(k) != mine[k] for k in about)]
        rows.insert(0, mine)
    rows.sort(key=lambda r: r["kernel"])
    path.write_text(json.dumps(rows, indent=1) + "\n")
