"""The points of a sweep: combinations of values, and the folders they are run in."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from typing import TYPE_CHECKING

from lmtrain.report.keys import bare

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hydra.core.override_parser.types import Override

LONGEST_NAME = 160
"""Letters of a folder's name: file systems allow 255 bytes."""


@dataclass(frozen=True)
class Point:
    """One combination of values."""

    values: dict[str, str]
    """What distinguishes it, by key or group as a configuration spells them."""
    words: tuple[str, ...]
    """Every override of its run."""

    @property
    def name(self) -> str:
        """Its folder: the same for the same values, another for others."""
        said = ",".join(f"{key}={value}" for key, value in self.values.items())
        plain = re.sub(r"[^\w.,=:+()\[\]-]", "-", said)
        if plain == said and len(plain) <= LONGEST_NAME:
            return plain
        return f"{plain[:LONGEST_NAME]}-{sha256(said.encode()).hexdigest()[:8]}"

    @property
    def overrides(self) -> list[str]:
        """The words for Hydra, with the folder among them."""
        return [*self.words, f"hydra.sweep.subdir={json.dumps(self.name, ensure_ascii=False)}"]


def spread(overrides: Iterable[Override], *, named: Iterable[str] = ()) -> list[Point]:
    """Every combination of the values that overrides give; the last word on a key wins.

    Args:
        overrides: parsed, those of a preset before those of the command.
        named: keys that distinguish points even with one value, so that a folder keeps its name
            when the other values are left out.

    Raises:
        ValueError: an override is no list of values, but an interval for some other sweeper.
    """
    words: dict[str, list[str]] = {}
    distinguishing = {bare(key) for key in named}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            words[key] = [str(override.input_line)]
        elif override.is_discrete_sweep():
            words[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            distinguishing.add(bare(key))
        else:
            raise ValueError(f"{override.input_line} is no list of values: say {key}=a,b,c")
    return [_point(chosen, distinguishing) for chosen in product(*words.values())]


def _point(words: tuple[str, ...], distinguishing: set[str]) -> Point:
    said = values_of(words)
    return Point({key: said[key] for key in said if key in distinguishing}, words)


def values_of(words: Iterable[str]) -> dict[str, str]:
    """What overrides say, by key or group as a configuration spells them."""
    pairs = (word.partition("=") for word in words)
    return {bare(key): _plain(value) for key, _, value in pairs}


def _plain(value: str) -> str:
    """A value without what only Hydra's grammar needs."""
    return value[1:-1] if value[:1] in ("'", '"') else re.sub(r"\\(.)", r"\1", value)
