"""``lmtrain VERB --help``: the groups of a verb, and every key with its value and meaning.

The text of a key is the docstring below its field, so nothing is said twice. Hydra composes as for
a run: help shows what the overrides beside it make of the defaults.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from enum import EnumType, StrEnum
from inspect import getdoc, getsource
from itertools import pairwise, takewhile
from shutil import get_terminal_size
from textwrap import dedent, fill
from typing import Any, get_args, get_type_hints

LEAST, USUAL, MOST = 80, 100, 120
"""Characters of a line: a terminal decides between the first and the last."""
COLUMN = 36
ENDING = """
More
  --help {topic:<15} the whole text of the keys that begin so
  --cfg job              the configuration that these overrides make, as YAML
  --info defaults-tree   the files that it is made of
  --hydra-help           all flags of Hydra\
"""


@dataclass(frozen=True)
class Key:
    """One line of help: a key, what it holds now, and what it means."""

    name: str
    value: str
    about: str
    section: str
    """What heads the keys beside it."""


def split(words: list[str]) -> tuple[list[str] | None, list[str]]:
    """What ``--help`` is asked about, None where nobody asks; and the other words.

    Help is about one configuration, so it takes nothing from a sweep.
    """
    place = next((i for i, word in enumerate(words) if word in ("-h", "--help")), None)
    if place is None:
        return None, words
    behind = words[place + 1 :]
    asked = list(takewhile(lambda word: "=" not in word and word[:1] not in "-+~", behind))
    rest = words[:place] + behind[len(asked) :]
    return asked, [] if {"-m", "--multirun"} & set(rest) else rest


def show(verb: str, does: str, asked: list[str], config: object) -> int:
    """Print the help of a verb, inside of a job of Hydra.

    Args:
        verb: its name.
        does: what it does, in a few words.
        asked: beginnings of keys whose whole text to print; if empty, a line for every key.
        config: what the verb would take.

    Raises:
        ValueError: no key begins with a word of ``asked``.
    """
    told = list(keys(config))
    if asked:
        print("\n".join(line for topic in asked for line in _whole(verb, topic, told)))
        return 0
    groups = list(_groups(verb))
    usage = f"lmtrain {verb} {'[group=option] ' if groups else ''}[key=value] ..."
    topic = told[-1].name.partition(".")[0]
    print("\n".join([usage, does, *groups, *_brief(told), ENDING.format(topic=topic)]))
    return 0


def keys(config: Any, prefix: str = "", section: str = "") -> Iterator[Key]:
    """Every key of a configuration: those of each section, then the sections inside of it."""
    about, hints = _docstrings(type(config)), get_type_hints(type(config))
    for name, value in sorted(_values(config), key=lambda pair: is_dataclass(pair[1])):
        if is_dataclass(value):
            heading = _plain((getdoc(value) or "").partition("\n")[0])
            yield from keys(value, f"{prefix}{name}.", heading)
        else:
            meaning = about.get(name, "")
            meaning += _choices(hints[name], meaning)
            yield Key(prefix + name, _shown(value), meaning, section)


def _values(config: Any) -> list[tuple[str, object]]:
    return [(field.name, getattr(config, field.name)) for field in fields(config)]


def _plain(text: str) -> str:
    """A docstring in one line, without its marks."""
    return " ".join(text.split()).replace("`", "")


def _docstrings(owner: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, in one line."""
    found: dict[str, str] = {}
    for base in reversed([base for base in owner.__mro__ if is_dataclass(base)]):
        body = ast.parse(dedent(getsource(base))).body[0].body  # pyright: ignore[reportAttributeAccessIssue]
        for field, below in pairwise(body):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(about))),
                ):
                    found[name] = _plain(about)
                case _:
                    pass
    return found


def _choices(hint: Any, meaning: str) -> str:
    """The values that a key of an enumeration takes, where its meaning names none of them."""
    for each in (hint, *get_args(hint)):
        if isinstance(each, EnumType) and issubclass(each, StrEnum):
            named = {*re.findall(r"\w+", meaning)} & {*map(str, each)}
            return "" if named else f" ({', '.join(each)})"
    return ""


def _shown(value: object) -> str:
    """A value as it is written on the command line."""
    match value:
        case None | bool():
            return json.dumps(value)
        case str() if value.isprintable() and value and " " not in value:
            return str(value)
        case list():
            return f"[{','.join(map(_shown, value))}]"
        case float():
            return f"{value:g}"
        case _:
            return json.dumps(value)


def _groups(verb: str) -> Iterable[str]:
    """The groups that the verb composes, with their options; what is chosen has a star."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    loader = GlobalHydra.instance().config_loader()
    chosen = {k: v for k, v in HydraConfig.get().runtime.choices.items() if "hydra" not in k}
    if not chosen:
        return
    yield "\nGroups: group=option chooses a file of configs/; * is chosen now"
    for group, option in chosen.items():
        names = (f"*{o}" if o == option else o for o in loader.get_group_options(group))
        yield _hanging(f"{group:<{COLUMN // 2}}", " ".join(names))
    if verb == "train":
        for group in ("sweep", "experiment"):
            options = " ".join(loader.get_group_options(group))
            yield _hanging(f"{'-m +' + group:<{COLUMN // 2}}", options)
        yield "-m key=a,b runs every combination, each in a folder of its own below run.dir"


def _brief(told: list[Key]) -> Iterable[str]:
    """A line for each key."""
    yield "\nKeys, with what they hold now"
    section = ""
    for key in told:
        if key.section != section:
            section = key.section
            yield f"\n  {section}"
        head = f"{key.name}={key.value}"
        about = key.about.partition(". ")[0].removesuffix(".")
        if len(head) >= COLUMN:
            yield f"  {head}"
            head = ""
        yield _hanging(f"{head:<{COLUMN}}", about)


def _whole(verb: str, topic: str, told: list[Key]) -> Iterable[str]:
    """All about the keys that are the topic or below it."""
    found = [key for key in told if f"{key.name}.".startswith(f"{topic.rstrip('.')}.")]
    if not found:
        names = {n for key in told for n in (key.name, key.name.partition(".")[0])}
        near = get_close_matches(topic, names, n=1)
        hint = f"do you mean {near[0]}?" if near else f"lmtrain {verb} --help lists them"
        raise ValueError(f"--help {topic}: lmtrain {verb} has no such key: {hint}")
    section = ""
    for key in found:
        if key.section != section:
            section = key.section
            yield f"\n{section}"
        yield f"\n  {key.name}={key.value}"
        yield fill(key.about, _width(), initial_indent=" " * 6, subsequent_indent=" " * 6)


def _hanging(head: str, words: str) -> str:
    """Words beside a head, and below each other."""
    first = f"  {head} "
    return (
        fill(words, _width(), initial_indent=first, subsequent_indent=" " * len(first))
        or first.rstrip()
    )


def _width() -> int:
    return min(max(get_terminal_size((USUAL, 0)).columns, LEAST), MOST)
