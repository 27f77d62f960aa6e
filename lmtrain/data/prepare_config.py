"""The configuration of preparation: what is read, and how it becomes a token store."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lmtrain.data.config import at_least


class TextSplit(StrEnum):
    """How a text file becomes documents."""

    file = "file"
    line = "line"
    paragraph = "paragraph"


class InputFormat(StrEnum):
    """What the input files hold; ``auto`` goes by their suffix."""

    auto = "auto"
    jsonl = "jsonl"
    parquet = "parquet"
    txt = "txt"


@dataclass(kw_only=True)
class PrepareConfig:
    """How ``lmtrain prepare`` turns texts into a token store."""

    input: str = ""
    """A file, a folder, or a pattern like ``corpus/*.jsonl.gz``."""
    out: str = ""
    """Folder of the new store; it must not exist."""
    format: InputFormat = InputFormat.auto
    """auto goes by the suffix; jsonl also reads ``.gz``; txt reads text files of any suffix."""
    tokenizer: str = "bpe:16384"
    """``bpe:N`` trains a byte-level BPE of N tokens on the input; ``bytes`` is one token a byte;
    anything else is the path of a ``tokenizer.json``."""
    end_of_text: str | None = None
    """Special token that ends a document; null finds it among the usual names."""
    field: str = "text"
    """Key (jsonl) or column (parquet) that holds the text."""
    split: TextSplit = TextSplit.file
    """Text files: one document per file, per line, or per paragraph (ended by an empty line)."""
    max_errors: int = 100
    """Malformed lines or files that are skipped and reported before it stops."""
    max_documents: int | None = None
    """Stop after so many documents."""

    def check(self) -> list[str]:
        """Every problem that can be seen without data, a sentence each."""
        problems = [
            at_least("max_errors", self.max_errors, 0),
            at_least("max_documents", self.max_documents, 1),
        ]
        if not self.input:
            problems.append("input is empty: give a file, a folder or a pattern, input=PATH")
        if not self.out:
            problems.append("out is empty: give the folder of the new store, out=PATH")
        kind, _, size = self.tokenizer.partition(":")
        if kind == "bpe" and not (size.isdecimal() and int(size) > 256):  # noqa: PLR2004
            problems.append(
                f"tokenizer={self.tokenizer} has no size: use bpe:N with N of 257 or more"
            )
        return [problem for problem in problems if problem]
