"""Long texts to ids, part by part: linear time, bounded memory, one document.

A tokenizer needs a hundred bytes of memory for each character, and more than linear time for what
it cannot split. So a long text is cut where cutting changes nothing: a part is encoded with
``OVERLAP`` characters more than it keeps, and a place in them is a cut if the ids from there on are
the same when that place is the beginning of a text. The ids before it have seen what follows them,
and the ids after it do not depend on what came before.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from lmtrain.data.tokenize import encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tokenizers import Tokenizer

PART = 1 << 20
"""Characters that are encoded at a time; a text with more of them is long."""

OVERLAP = 1 << 11
"""Characters behind a cut that are encoded twice, and compared."""

TRIES = 16
"""Places of each sort that are tried, the last ones of the part first."""


class UncuttableError(ValueError):
    """A text that this tokenizer can only encode as a whole, and that is too long for that."""


def pieces(text: str) -> Iterator[str]:
    """The text in parts, as ``encode_long`` takes it."""
    return (text[start : start + PART] for start in range(0, len(text), PART))


def encode_long(tokenizer: Tokenizer, text: Iterable[str]) -> Iterator[list[int]]:
    """The ids of a text that comes in parts of any size: list after list, at most ``PART`` ids.

    They are those of the whole text wherever a cut can be verified, as at spaces, between letters
    and digits, or at the border of a token. Inside of one endless word the ids may differ around a
    cut; they still decode to the text.

    Raises:
        UncuttableError: they would not, because this tokenizer adds to the beginning of each part.
    """
    rest = ""
    for more in text:
        rest += more
        start = 0
        while len(rest) - start > PART:
            ids, kept = _first_part(tokenizer, rest[start : start + PART])
            yield ids
            start += kept
        rest = rest[start:]
    if rest:
        yield encode(tokenizer, [rest])[0]


def _first_part(tokenizer: Tokenizer, part: str) -> tuple[list[int], int]:
    """The ids of the beginning of ``part``, and how many of its characters they stand for."""
    [ids] = encode(tokenizer, [part])
    for places in _places(part):
        for place, after in zip(
            places, encode(tokenizer, [part[place:] for place in places]), strict=True
        ):
            if after and ids[-len(after) :] == after:
                return ids[: -len(after)], place
    place = len(part) - OVERLAP
    before, after = encode(tokenizer, [part[:place], part[place:]])
    if tokenizer.decode(before + after) != tokenizer.decode(ids):
        raise UncuttableError(f"no place to cut it in {len(part):,} characters without a space")
    return before, place


def _places(part: str) -> Iterator[Sequence[int]]:
    """Where to cut, the most promising first: before words, at other borders, anywhere."""
    last = len(part) - OVERLAP
    window = range(last, max(1, last - OVERLAP), -1)
    kinds = {place: _kind(part[place]) for place in (*window, window[-1] - 1)}
    borders = [place for place in window if kinds[place] != kinds[place - 1]]
    words = [place for place in borders if kinds[place] == " "][:TRIES]
    # A tokenizer that begins every text with a space takes the cut behind the space.
    yield list(chain.from_iterable((place, place + 1) for place in words))
    yield borders[:TRIES]
    for first in range(0, 4 * TRIES, TRIES):
        yield window[first : first + TRIES]


def _kind(character: str) -> str:
    """What pre-tokenizers tell apart: spaces, letters, digits, and each other character."""
    if character.isspace():
        return " "
    if character.isalpha():
        return "a"
    return "0" if character.isnumeric() else character
