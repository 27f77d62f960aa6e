"""Looking at documents: some of a store, drawn by a seed, as text that is safe to print."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lmtrain.data.arrays import load_documents
from lmtrain.data.store import Side

if TYPE_CHECKING:
    from lmtrain.data.store import Store

FIRST_TOKENS = 200
LAST_TOKENS = 40

HIDDEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
"""Kinds of characters that move the cursor, change direction or show nothing."""


@dataclass(frozen=True)
class Sample:
    """A document: its place in the store, where it came from, and its text."""

    index: int
    start: int
    tokens: int
    source: str
    first: str
    left_out: int
    """Tokens between ``first`` and ``last``."""
    last: str

    def __str__(self) -> str:
        """A heading, and the text with a bar before every line, so that nothing else looks so."""
        place = f"tokens {self.start:,} to {self.start + self.tokens:,} ({self.tokens:,})"
        return "\n".join(
            [
                f"document {self.index:,}, {place}, from {visible(self.source)}",
                *_barred(self.first),
                *([f"  ... {self.left_out:,} tokens ..."] if self.left_out else []),
                *_barred(self.last),
            ]
        )


def peek(store: Store, *, count: int, seed: int) -> list[Sample]:
    """``count`` different documents of the store, in its order; the same for the same seed."""
    documents = store.documents(Side.train)
    drawn = np.random.default_rng(seed).choice(
        len(documents.starts), min(count, len(documents.starts)), replace=False
    )
    tokenizer = store.tokenizer()
    samples: list[Sample] = []
    for index in np.sort(drawn).tolist():
        start, length = int(documents.starts[index]), int(documents.lengths[index])
        ids: list[int] = store.read(np.array([start]), length)[0].tolist()
        cut = FIRST_TOKENS if length > FIRST_TOKENS + LAST_TOKENS else length
        rest = ids[cut:][-LAST_TOKENS:]
        samples.append(
            Sample(
                index=index,
                start=start,
                tokens=length,
                source=source_of(store, index),
                first=tokenizer.decode(ids[:cut], skip_special_tokens=False),
                left_out=length - cut - len(rest),
                last=tokenizer.decode(rest, skip_special_tokens=False),
            )
        )
    return samples


def source_of(store: Store, index: int) -> str:
    """The name of the input that a document was made from."""
    for shard in store.manifest.shards:
        if index < shard.documents:
            source = int(load_documents(store.folder, shard)["source"][index])
            inputs = store.manifest.inputs
            return inputs[source].name if source < len(inputs) else f"unknown input {source}"
        index -= shard.documents
    raise IndexError(index)


def visible(text: str) -> str:
    r"""The same text with what a terminal would obey or not show written like ``\x1b``."""
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character == "\\" or unicodedata.category(character) in HIDDEN:
        return character.encode("unicode_escape").decode()
    return character


def _barred(text: str) -> list[str]:
    return [f"  | {visible(line)}" for line in text.split("\n")] if text else []
