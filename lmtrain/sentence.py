"""Errors as sentences: what went wrong and what to do, for a person at a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import Any, get_type_hints

VALUES = (
    (r"Value '{}' of type 'dict'.*|Cannot convert 'dict'.*", "it holds a value and no keys"),
    (r"Value '(.*)' of type '.*' could not be converted to Float", r"'\1' is no number"),
    (r"Value '(.*)' of type '.*' could not be converted to Integer", r"'\1' is no whole number"),
    (r"Value '(.*)' is not a valid bool.*", r"'\1' is neither true nor false"),
    (r"Invalid value '(.*)', expected one of \[(.*)\]", r"'\1' is none of \2"),
    (r"Invalid value assigned: .* is not a ListConfig.*", "it is a list: write it as [A,B]"),
    (r"Invalid type assigned: .* is not a subclass of .*", "it is a section: set the keys in it"),
    (r"field '.*' is not Optional", "null is no value of it"),
    (r", [a-z]+_\b", ""),  # a name beside its value, which is a word of Python
)
"""What OmegaConf says of a value, and what we say."""


def sentence(error: BaseException) -> str:
    """What went wrong and what to do, without what only Hydra's developers need."""
    lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    match type(error).__name__:
        case "MissingConfigException":
            first, *rest = filter(None, lines[: lines.index("Config search path:")])
            return f"{first}. {' '.join(rest)}"
        case "OverrideParseException":
            return _unread(lines)
        case "ConfigCompositionException":
            return _refused(lines, error.__cause__)
        case "ValueError":
            return str(error)
        case _:
            return lines[0]


def in_quotes(text: str) -> str:
    """A text as a value of an override, which Hydra reads as it is."""
    escaped = re.sub(r'(\\*)("|\Z)', lambda m: m[1] * 2 + ("\\" if m[2] else "") + m[2], text)
    return f'"{escaped}"'


def _unread(lines: list[str]) -> str:
    """Of a word that is no override."""
    if "missing EQUAL" in lines[1]:
        return f"{lines[0].removeprefix('Error parsing override ')} is no KEY=VALUE"
    told = [line.partition(" expecting")[0] for line in lines if "See " not in line]
    return f"{': '.join(told)} (quote brackets and commas: 'key=\"[AM]\"')"


def _refused(lines: list[str], cause: BaseException | None) -> str:
    """Of an override that does not go with the configuration."""
    line = lines[0]
    if line.startswith("Could not override"):
        if cause is None:  # a group, and Hydra has the remedy
            return " ".join(lines)
        return _unknown(cause)
    if line.startswith("Ambiguous value"):
        return f"{line}: add -m to run one after the other, or write a list, KEY=[A,B]"
    if cause is None:
        return line
    reason = str(cause).partition("\n")[0]
    for theirs, ours in VALUES:
        reason = re.sub(theirs, ours, reason)
    override = line.removeprefix("Error merging override ")
    typed = override.partition("=")[2]
    if "[" not in typed:  # 1e3, which a reader of numbers has made 1000.0
        reason = re.sub("^'[^']*'(?= is)", lambda _: f"'{typed}'", reason)
    return f"{override}: {reason}"


def _unknown(error: Any) -> str:
    """Of a key that is not there, with the nearest that is."""
    key, owner = error.full_key, error.object_type
    if not is_dataclass(owner):
        return f"there is no key {key} yet: +KEY=VALUE adds one"
    section, _, name = key.rpartition(".")
    inside = dict(reversed(list(_leaves(owner))))
    own = [whole for whole in inside.values() if "." not in whole]
    leaf = _nearest(name, inside, cutoff=0.7)  # a short word is like many
    near = inside.get(name) or _nearest(name, own) or _nearest(name, inside.values())
    near = near or (leaf and inside[leaf])
    if near is None:
        return f"there is no key {key}: --help{f' {section}' if section else ''} lists the keys"
    return f"there is no key {key}: do you mean {section}{'.' if section else ''}{near}?"


def _nearest(word: str, words: Iterable[str], cutoff: float = 0.6) -> str | None:
    return next(iter(get_close_matches(word, list(words), n=1, cutoff=cutoff)), None)


def _leaves(owner: Any) -> Iterator[tuple[str, str]]:
    """The last part and the whole of every key below a section, outer ones first."""
    sections = [("", owner)]
    for prefix, section in sections:
        for name, hint in get_type_hints(section).items():
            if is_dataclass(hint):
                sections.append((f"{prefix}{name}.", hint))
            else:
                yield name, prefix + name
