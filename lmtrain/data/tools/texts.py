"""What ids stand for: the bytes of a text, and a hash that says on which side a document is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from lmtrain.data.manifest import DOCUMENT_HASH, TOKEN_HASH
from lmtrain.data.tokenize import token_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPELLED_TOKENS = 1 << 20
"""Tokens that are spelled out at a time: about 100 MB."""


@dataclass(frozen=True, eq=False)
class Hasher:
    """Hashes of documents that come as ids.

    With a byte-level tokenizer the hash is that of the text, as ``lmtrain prepare`` would compute
    it: each id is a fixed string of bytes, so a block of documents becomes text by one gather.
    Other tokenizers would have to decode each document; there, the ids are hashed instead.
    """

    document_hash: str
    """Its name in the manifest."""
    _text: NDArray[np.uint8]
    _starts: NDArray[np.int64]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self:
        """The hasher of a tokenizer's ids."""
        texts = token_texts(tokenizer)
        if texts is None:
            return cls(TOKEN_HASH, np.empty(0, np.uint8), np.empty(0, np.int64))
        starts = np.cumsum([0, *map(len, texts)])
        return cls(DOCUMENT_HASH, np.frombuffer(b"".join(texts), np.uint8), starts)

    def __call__(self, tokens: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
        """``[documents]`` a hash of each.

        Args:
            tokens: of all documents, without the special tokens around them.
            lengths: ``[documents]``, none of them 0.
        """
        if len(lengths) == 1:
            return np.array([self._hash_long(tokens)], np.uint64)
        text, sizes = self._spell(tokens)
        data = text.data
        ends = np.concatenate([[0], np.cumsum(sizes)])
        borders = ends[np.concatenate([[0], np.cumsum(lengths)])].tolist()
        numbers = (hashlib.blake2b(data[a:b], digest_size=8) for a, b in pairwise(borders))
        return np.fromiter(map(_number, numbers), np.uint64, len(lengths))

    def _hash_long(self, tokens: NDArray[Any]) -> int:
        """The hash of one document, part by part."""
        digest = hashlib.blake2b(digest_size=8)
        for start in range(0, len(tokens), SPELLED_TOKENS):
            digest.update(self._spell(tokens[start : start + SPELLED_TOKENS])[0].data)
        return _number(digest)

    def _spell(self, tokens: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The bytes that are hashed, and how many stand for each token."""
        if not len(self._starts):
            return tokens.astype("<u4").view(np.uint8), np.full(len(tokens), 4)
        first = self._starts[tokens]
        sizes = self._starts[1:][tokens] - first
        ends = np.cumsum(sizes)
        total = int(ends[-1]) if len(ends) else 0
        return self._text[np.repeat(first - ends + sizes, sizes) + np.arange(total)], sizes


def _number(digest: hashlib.blake2b) -> int:
    return int.from_bytes(digest.digest(), "little")
