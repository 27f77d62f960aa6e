"""Texts to the documents of a store: ids with their special tokens, lengths, hashes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from tokenizers import Tokenizer

from lmtrain.data.longtext import PART, encode_long, pieces
from lmtrain.data.manifest import token_dtype
from lmtrain.data.tokenize import encode, text_hash, vocab_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

BATCH_CHARACTERS = 1 << 20
"""Text that is tokenised, and held in memory, at a time."""


class Encoded(NamedTuple):
    """Documents: ``tokens [sum(lengths)]`` with their special tokens, and of each document its
    ``lengths``, 0 for a blank one, and ``hashes``."""

    tokens: NDArray[Any]
    lengths: NDArray[np.int64]
    hashes: NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Encoder:
    """A tokenizer, and the special tokens around every document."""

    tokenizer: Tokenizer
    dtype: np.dtype[Any]
    end_of_text: int
    begin_of_text: int | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer, end_of_text: int, begin_of_text: int | None = None) -> Self:
        """The encoder to the smallest integers that hold every id."""
        return cls(tokenizer, token_dtype(vocab_size(tokenizer)), end_of_text, begin_of_text)

    def __call__(self, texts: Sequence[str]) -> Encoded:
        """The documents of these texts; the ids of a long text are put together in memory."""
        filled = [text for text in texts if not is_blank(text)]
        short = iter(encode(self.tokenizer, [text for text in filled if not is_long(text)]))
        ids = [self._long(text) if is_long(text) else next(short) for text in filled]
        before, after = self.around
        extra = len(before) + len(after)
        sizes = iter(map(len, ids))
        lengths = [0 if is_blank(text) else next(sizes) + extra for text in texts]
        parts = ((before, part, after) for part in ids)
        flat = chain.from_iterable(chain.from_iterable(parts))
        return Encoded(
            np.fromiter(flat, self.dtype, sum(lengths)),
            np.array(lengths, np.int64),
            np.array([text_hash(text) for text in texts], np.uint64),
        )

    @property
    def around(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after the ids of a document."""
        return [] if self.begin_of_text is None else [self.begin_of_text], [self.end_of_text]

    def parts(self, text: Iterable[str]) -> Iterator[NDArray[Any]]:
        """The ids of one document that comes in parts, its special tokens included."""
        before, after = self.around
        for ids in chain([before], encode_long(self.tokenizer, text), [after]):
            if ids:
                yield np.array(ids, self.dtype)

    def _long(self, text: str) -> list[int]:
        return list(chain.from_iterable(encode_long(self.tokenizer, pieces(text))))


class TextHash:
    """The hash of a text that comes in parts; see ``text_hash``."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=8)

    def through(self, text: Iterable[str]) -> Iterator[str]:
        """The same parts, seen by the hash on their way."""
        for part in text:
            self._digest.update(part.encode())
            yield part

    @property
    def value(self) -> int:
        """The hash of all that went through."""
        return int.from_bytes(self._digest.digest(), "little")


def is_blank(text: str) -> bool:
    """Whether there is nothing to see in it."""
    return not text or text.isspace()


def is_long(text: str) -> bool:
    """Whether it is encoded in parts."""
    return len(text) > PART


def batched(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of consecutive texts, each of about ``BATCH_CHARACTERS``."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
