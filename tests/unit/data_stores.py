"""Tiny token stores for the tests of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lmtrain.data.manifest import InputEntry
from lmtrain.data.store import Selection, Store
from lmtrain.data.tokenize import bytes_tokenizer, end_of_text
from lmtrain.data.tools.verify import verify
from lmtrain.data.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def random_texts(count: int, *, longest: int = 3000, seed: int = 0) -> list[str]:
    """Texts of random letters with a long tail of lengths, no two alike."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(longest, 1 + rng.lognormal(5.5, 1.2, count)).astype(int)
    return [rng.integers(97, 123, n).astype(np.uint8).tobytes().decode() for n in lengths]


def write_store(
    folder: Path, texts: Sequence[str], *, shard_tokens: int = 1 << 31, val_fraction: float = 0.2
) -> Store:
    """A store of these texts, one token a byte and one for the end of a text."""
    tokenizer = bytes_tokenizer()
    with Writer(
        out=folder,
        tokenizer=tokenizer,
        tokenizer_name="bytes",
        end_of_text=end_of_text(tokenizer),
        shard_tokens=shard_tokens,
    ) as writer:
        writer.add(texts)
        writer.finish([InputEntry(name="test", files=1, bytes=0, sha256="")])
    return Store(folder, Selection(val_fraction=val_fraction))


def problems_of(folder: Path) -> list[str]:
    """Everything that full verification finds wrong with a store."""
    return [problem for report in verify(folder) for problem in report.problems]
