"""The keys that vary in a sweep: their names, what they decide, the order of their values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PARTS = re.compile(r"(?:[^,\[{('\"]|\[[^\]]*\]|{[^}]*}|\([^)]*\)|'[^']*'|\"[^\"]*\")+")
"""Values between commas, brackets and quotes held together."""

FEW = 4
"""Keys whose values a person can tell apart in a line."""

BARE = ("null", "true", "false")
"""Words that say nothing without their key."""


def bare(key: object) -> str:
    """A key as configurations spell it: ``+model/size@model`` is ``model.size``."""
    return str(key).lstrip("+~").partition("@")[0].replace("/", ".")


def short_key(key: str) -> str:
    """The last part of a dotted key, which says what is meant; of ``data.task.name`` the task."""
    whole, _, last = key.rpartition(".")
    return whole.rpartition(".")[2] if last == "name" and whole else last


def said(keys: Mapping[str, str]) -> str:
    """Values by key as words; numbers and the like have the name of their key before them."""
    return ", ".join(
        value if value[:1].isalpha() and value not in BARE else f"{short_key(key)} {value}"
        for key, value in keys.items()
    )


def named_by(keys: Mapping[str, str], otherwise: str) -> str:
    """The same of a few keys; of none, or of as many as unrelated runs have, ``otherwise``."""
    return said(keys) if 0 < len(keys) <= FEW else otherwise


def is_seed(key: str) -> bool:
    """Whether a key only repeats."""
    return key.rpartition(".")[2] == "seed"


def is_condition(key: str) -> bool:
    """Whether a key decides what is learned rather than how."""
    return key.partition(".")[0] == "data" and not is_seed(key)


def ordered(key: str, values: Iterable[str], words: Sequence[str] = ()) -> list[str]:
    """Values of a key, each once: numbers by size, stacks by their share of attention.

    Others follow as in the words of the sweep's command, and those not in it come last.
    """
    found = dict.fromkeys(values)
    numbers = {value: _number(value) for value in found}
    if None not in numbers.values():
        return sorted(found, key=lambda value: numbers[value] or 0.0)
    if key == "model.pattern":
        return sorted(found, key=lambda word: (_attention(word), len(word), word))
    given = {value: place for place, value in enumerate(_given(key, words))}
    return sorted(found, key=lambda value: (given.get(value, len(given)), value))


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _attention(pattern: str) -> float:
    """The share of attention in the mixers of a word, without reading its repeats."""
    mixers = [letter.upper() for letter in pattern if letter.isalpha()]
    return mixers.count("A") / max(len(mixers), 1)


def _given(key: str, words: Sequence[str]) -> list[str]:
    """The values of a key in the words of a command, in their order."""
    for word in words:
        name, _, values = word.partition("=")
        if bare(name) == key:
            return [value.strip(" '\"") for value in PARTS.findall(values)]
    return []
