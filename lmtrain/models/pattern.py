"""Pattern words: the topology of a stack, written as a word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice, pairwise
from math import gcd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LETTERS = {"A": "attention", "W": "sliding_window", "M": "mamba2", "G": "gated_deltanet"}
"""Letter of each mixer and the field of ``ModelConfig`` that shapes it."""

RECURRENT = ("M", "G")
"""Letters of the mixers that carry a state of constant size through the whole document."""

_TOKEN = re.compile(
    r"(?P<open>\()|(?P<close>\))(?P<count>[0-9]*)|(?P<side>\[)(?P<inside>[^\[\]()]*)(?P<end>\]?)|(?P<one>.)",
    re.DOTALL,
)


@dataclass(frozen=True)
class BlockSpec:
    """One block of the stack: mixers side by side, then an MLP or none.

    ``mixers`` holds capital letters; it is empty in a block that is only an MLP.
    """

    mixers: tuple[str, ...]
    mlp: bool

    def __str__(self) -> str:
        """The block as a pattern word writes it."""
        if not self.mixers:
            return "-"
        letters = "".join(self.mixers) if self.mlp else "".join(self.mixers).lower()
        return letters if len(self.mixers) == 1 else f"[{letters}]"


def sections(blocks: Iterable[BlockSpec]) -> set[str]:
    """The fields of ``ModelConfig`` that shape their mixers."""
    return {LETTERS[letter] for block in blocks for letter in block.mixers}


class Placement(StrEnum):
    """Where in the stack the blocks of attention stand."""

    evenly = "evenly"
    """As far apart as they can, each behind the recurrent blocks of its group."""
    first = "first"
    """All of them before the others."""
    middle = "middle"
    last = "last"


def parse(word: str, n_layers: int) -> tuple[BlockSpec, ...]:
    """The ``n_layers`` blocks that ``word``, tiled, lays out; the last tile may be cut.

    Raises:
        ValueError: the word is not one, or makes more than ``n_layers`` blocks; the message shows
            the place.
    """
    if n_layers < 1:
        raise ValueError(f"model.n_layers must be at least 1, got {n_layers}.")
    return tuple(islice(cycle(_expand(word, n_layers)), n_layers))


def hybrid(*, linear: str, full: str, ratio: str, placement: Placement, n_layers: int) -> str:
    """The word of a stack in which ``ratio`` blocks of two kinds are mixed.

    ``"3:1"`` of ``G`` and ``A`` is ``GGGA`` evenly, and ``AAGGGGGG`` first in 8 layers.

    Args:
        linear: letter of the recurrent blocks.
        full: letter of the blocks of attention.
        ratio: recurrent blocks to blocks of attention.
        placement: where the latter stand.
        n_layers: blocks of the stack.

    Raises:
        ValueError: ``ratio`` is not two whole numbers with a colon, or does not hold exactly in so
            many blocks.
    """
    linears, fulls = _parts(ratio)
    if n_layers % (linears + fulls):
        raise ValueError(
            f"ratio={ratio} cannot hold in model.n_layers={n_layers}: make that a multiple of "
            f"{linears + fulls}, or choose another ratio"
        )
    if placement is Placement.evenly:
        ends = [-(-i * linears // fulls) for i in range(1, fulls + 1)] if fulls else []
        gaps = [end - start for start, end in pairwise([0, *ends])]
        return "".join(linear * gap + full for gap in gaps) or linear
    times = n_layers // (linears + fulls)
    others, block = linears * times, full * (fulls * times)
    before = {Placement.first: 0, Placement.middle: (others + 1) // 2, Placement.last: others}
    return linear * before[placement] + block + linear * (others - before[placement])


def _parts(ratio: str) -> tuple[int, int]:
    """The numbers of a ratio in lowest terms."""
    numbers = re.fullmatch(r"([0-9]{1,4}):([0-9]{1,4})", ratio)
    if numbers is None or ratio.strip("0:") == "":
        raise ValueError(f"ratio={ratio} is not two whole numbers like 3:1, 1:0 or 0:1")
    linears, fulls = (int(n) for n in numbers.groups())
    return linears // gcd(linears, fulls), fulls // gcd(linears, fulls)


def _expand(word: str, limit: int) -> list[BlockSpec]:
    """The blocks of one tile; never builds more than ``limit``."""
    levels: list[list[BlockSpec]] = [[]]
    opened: list[int] = []
    for token in _TOKEN.finditer(word):
        at = token.start()
        if token["open"]:
            levels.append([])
            opened.append(at)
            continue
        if token["close"]:
            if not opened:
                raise _fault(word, at, "nothing is open that ')' could close")
            opened.pop()
            blocks, times = levels.pop(), _times(word, token)
        else:
            blocks, times = [_block(word, token)], 1
        if not blocks:
            raise _fault(word, at, "there is nothing to repeat")
        if len(levels[-1]) + len(blocks) * times > limit:
            raise _fault(
                word,
                at,
                f"the word is longer than model.n_layers={limit}: shorten it or raise that",
            )
        levels[-1] += blocks * times
    if opened:
        raise _fault(word, opened[-1], "this bracket is never closed")
    if not levels[0]:
        raise _fault(word, 0, "the word is empty; a stack of attention is 'A'")
    return levels[0]


def _times(word: str, token: re.Match[str]) -> int:
    if not token["count"]:
        raise _fault(word, token.end() - 1, "a repeat needs a count, as in (GGGA)6")
    times = int(token["count"][:9])  # nine digits are beyond any stack already
    if times == 0:
        raise _fault(word, token.start("count"), "a repeat must be at least 1")
    return times


def _block(word: str, token: re.Match[str]) -> BlockSpec:
    if token["side"]:
        return _side_by_side(word, token)
    if token["one"] == "-":
        return BlockSpec(mixers=(), mlp=True)
    letter = _letter(word, token.start())
    return BlockSpec(mixers=(letter.upper(),), mlp=letter.isupper())


def _side_by_side(word: str, token: re.Match[str]) -> BlockSpec:
    at, inside = token.start("inside"), token["inside"]
    if not token["end"]:
        raise _fault(word, token.start(), "this bracket is never closed")
    letters = [_letter(word, at + i) for i in range(len(inside))]
    if len(letters) < 2:  # noqa: PLR2004
        raise _fault(word, token.start(), "side by side needs two mixers or more, as in [AM]")
    for i, letter in enumerate(letters):
        if letter.isupper() != letters[0].isupper():
            raise _fault(
                word, at + i, "side by side, mixers share one MLP: write [AM] with it, [am] without"
            )
    return BlockSpec(mixers=tuple(inside.upper()), mlp=letters[0].isupper())


def _letter(word: str, at: int) -> str:
    letter = word[at]
    if letter.upper() in LETTERS and letter.isascii():
        return letter
    names = ", ".join(f"{key} {name}" for key, name in LETTERS.items())
    several = ", and several words run one after the other with -m" if letter == "," else ""
    raise _fault(word, at, f"{letter!r} is no mixer; the letters are {names}{several}")


def _fault(word: str, at: int, why: str) -> ValueError:
    return ValueError(f"model.pattern={word}: {why}.\n  {word}\n  {' ' * at}^")
