"""Preparation: files of text become a token store."""

from __future__ import annotations

import sys
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from lmtrain.data.encoding import batched
from lmtrain.data.lock import locked
from lmtrain.data.manifest import InputEntry
from lmtrain.data.prepare_config import InputFormat
from lmtrain.data.progress import progress
from lmtrain.data.readers import Malformed, file_format, find_files, read_documents
from lmtrain.data.store import Store
from lmtrain.data.tokenize import bytes_tokenizer, end_of_text, load_tokenizer, sample, train_bpe
from lmtrain.data.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tokenizers import Tokenizer

    from lmtrain.data.prepare_config import PrepareConfig

TRAINING_BYTES = 1 << 25
"""About how much of the input a tokenizer is trained on."""

SHOWN_ERRORS = 10


def prepare(config: PrepareConfig) -> Path:
    """Write the token store of ``config.out``; nothing is left if it fails.

    Returns:
        Its folder.

    Raises:
        ValueError: the configuration, the input or the tokenizer cannot be used, or ``out`` exists.
    """
    problems = config.check()
    if problems:
        raise ValueError("\n".join(problems))
    out = Path(config.out).expanduser()
    try:
        with locked(out.absolute(), wait=False):
            malformed = _write(out, config)
    except OSError as error:
        raise ValueError(f"out={out} cannot be written ({error}): choose another folder") from error
    print(describe(Store(out), malformed))
    return out


def describe(store: Store, malformed: Malformed) -> str:
    """What was written, and what was left out."""
    counts = store.manifest.counts
    lines = [
        f"{store.folder}: {counts.documents:,} documents, {counts.tokens:,} tokens, vocabulary of "
        f"{store.vocab_size:,}; left out: {counts.empty:,} empty, {counts.malformed:,} malformed",
        *malformed.places[:SHOWN_ERRORS],
    ]
    if len(malformed.places) > SHOWN_ERRORS:
        lines.append(f"... and {len(malformed.places) - SHOWN_ERRORS} more")
    return "\n".join(lines)


def _write(out: Path, config: PrepareConfig) -> Malformed:
    if out.exists():
        raise ValueError(f"out={out} exists: choose another folder, or delete it first")
    inputs = _inputs(config)
    tokenizer = _tokenizer(config, inputs)
    malformed = Malformed(config.max_errors)
    writer = Writer(
        out=out,
        tokenizer=tokenizer,
        tokenizer_name=config.tokenizer,
        end_of_text=end_of_text(tokenizer, config.end_of_text),
    )
    with writer, progress(f"tokenising {config.input}", unit="tokens") as advance:
        documents = _documents(inputs, config, malformed)
        for source, group in groupby(documents, key=itemgetter(0)):
            for texts in batched(text for _, text in group):
                advance(writer.add(texts, source=source))
        entries = [InputEntry.of(name, files) for name, files in inputs]
        writer.finish(entries, malformed=len(malformed.places))
    return malformed


def _inputs(config: PrepareConfig) -> list[tuple[str, list[Path]]]:
    """Names and files of the inputs: each file is one, but text files of a folder are one."""

    def name(path: Path) -> str:
        return str(path.parent if file_format(path, config) == InputFormat.txt else path)

    return [(key, list(files)) for key, files in groupby(find_files(config), key=name)]


def _documents(
    inputs: Sequence[tuple[str, list[Path]]], config: PrepareConfig, malformed: Malformed
) -> Iterator[tuple[int, str]]:
    """Every document, with the number of its input."""
    every = (
        (source, text)
        for source, (_, files) in enumerate(inputs)
        for file in files
        for text in read_documents(file, config, malformed)
    )
    return islice(every, config.max_documents)


def _tokenizer(config: PrepareConfig, inputs: Sequence[tuple[str, list[Path]]]) -> Tokenizer:
    kind, _, size = config.tokenizer.partition(":")
    if config.tokenizer == "bytes":
        return bytes_tokenizer()
    if kind != "bpe":
        return load_tokenizer(Path(config.tokenizer).expanduser())
    print(f"training a tokenizer of {size} tokens", file=sys.stderr, flush=True)
    total = sum(file.stat().st_size for _, files in inputs for file in files)
    texts = (text for _, text in _documents(inputs, config, Malformed(config.max_errors)))
    share = min(1.0, TRAINING_BYTES / max(1, total))
    return train_bpe(sample(texts, share), vocab_size=int(size))
