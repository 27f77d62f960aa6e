"""Samples of the documents: from units spread over the whole input, or from the first of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmtrain.data.readers import LongFile, Problem, Reader
from lmtrain.data.units import Unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lmtrain.data.hub import HubDataset

SAMPLED_UNITS = 32
"""From how many units a sample is taken."""


@dataclass(frozen=True)
class Sample:
    """The first documents of a unit: the last of them, or all if they are very long, is cut.

    ``whole`` counts the characters of the documents before they were cut, and ``share`` is how much
    of the unit was read for them.
    """

    unit: Unit
    texts: list[str]
    whole: int
    share: float


def spread(
    units: Sequence[Unit], characters: int, *, field: str, dataset: HubDataset | None
) -> Iterator[Sample]:
    """About so many characters, from each unit in proportion to its size; all if there are not so
    many.

    Raises:
        ValueError: a unit cannot be read.
    """
    chosen = list(units)
    if len(chosen) > SAMPLED_UNITS:
        chosen = [units[i * len(units) // SAMPLED_UNITS] for i in range(SAMPLED_UNITS)]
    total = sum(unit.bytes for unit in chosen)
    for unit in chosen:
        limit = characters * unit.bytes // total if total else characters // len(chosen)
        yield take(unit, max(1, limit), field=field, dataset=dataset)


def spread_texts(
    units: Sequence[Unit], characters: int, *, field: str, dataset: HubDataset | None
) -> Iterator[str]:
    """The texts of ``spread``."""
    for sample in spread(units, characters, field=field, dataset=dataset):
        yield from sample.texts


def first_texts(
    units: Sequence[Unit], characters: int, *, field: str, dataset: HubDataset | None
) -> Iterator[str]:
    """The first documents of the input, so many characters.

    Raises:
        ValueError: a unit cannot be read.
    """
    for unit in units:
        sample = take(unit, characters, field=field, dataset=dataset)
        yield from sample.texts
        characters -= sum(map(len, sample.texts))
        if characters <= 0:
            return


def take(unit: Unit, characters: int, *, field: str, dataset: HubDataset | None) -> Sample:
    """So many characters from the beginning of a unit, or all of it.

    Raises:
        ValueError: it cannot be read.
    """
    reader = Reader(unit, field, dataset)
    texts: list[str] = []
    whole = 0
    for found in reader:
        if isinstance(found, Problem):
            continue
        text, size = found.sample() if isinstance(found, LongFile) else (found, len(found))
        whole += size
        texts.append(text[:characters])
        characters -= len(texts[-1])
        if characters <= 0:
            return Sample(unit, texts, whole, min(1.0, reader.position / max(1, unit.bytes)))
    return Sample(unit, texts, whole, 1.0)
