"""Import: token files of other toolkits become a token store, without tokenising again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmtrain.data.choice import Choice
from lmtrain.data.encoding import Encoded
from lmtrain.data.inputs import named
from lmtrain.data.lock import locked
from lmtrain.data.manifest import InputEntry, token_dtype
from lmtrain.data.prepare_config import InputFormat
from lmtrain.data.progress import progress
from lmtrain.data.store import Store
from lmtrain.data.tokenize import vocab_size
from lmtrain.data.tools.datatrove import read_datatrove
from lmtrain.data.tools.dolma import read_dolma
from lmtrain.data.tools.megatron import read_megatron
from lmtrain.data.tools.texts import SPELLED_TOKENS, Hasher
from lmtrain.data.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lmtrain.data.prepare_config import PrepareConfig
    from lmtrain.data.tools.foreign import TokenFile

READERS: dict[InputFormat, tuple[str, Callable[[Path], TokenFile]]] = {
    InputFormat.megatron: (".idx", read_megatron),
    InputFormat.datatrove: (".ds", read_datatrove),
    InputFormat.dolma: (".npy", read_dolma),
}
"""Format to the suffix that its files are found by, and their reader."""


def import_tokens(config: PrepareConfig) -> Path:
    """Write the token store of ``config.out``; nothing is left if it fails.

    Memory is a block of documents, or the longest document. Documents that hold nothing but their
    end are left out, and every document ends with the tokenizer's end of text afterwards.

    Returns:
        Its folder.

    Raises:
        ValueError: the files or the tokenizer cannot be used, do not fit, or ``out`` exists.
    """
    out = Path(config.out).expanduser()
    try:
        with locked(out.absolute(), wait=False):
            seen = _write(out, config)
    except OSError as error:
        raise ValueError(f"out={out} cannot be written ({error}): choose another folder") from error
    counts = Store(out).manifest.counts
    print(
        f"{out}: {counts.documents:,} documents, {counts.tokens:,} tokens; left out: "
        f"{seen['empty']:,} empty; added: {seen['unended']:,} ends of text, {seen['unbegun']:,} "
        f"beginnings; ends of text that stay inside of documents: {seen['inside']:,}"
    )
    return out


def find_token_files(pattern: str, kind: InputFormat) -> list[Path]:
    """Files of this format: one of them, all in a folder, or all of a pattern; in order of name.

    Raises:
        ValueError: there are none.
    """
    suffix, _ = READERS[kind]
    found = named(pattern)
    if Path(pattern).expanduser() in found:
        return found  # of any suffix, or the prefix of several files
    found = [file for file in found if file.suffix == suffix]
    if not found:
        raise ValueError(f"input={pattern} has no {suffix} files for format={kind}: give others")
    return found


def check_ids(path: Path, tokens: NDArray[Any], vocabulary: int) -> None:
    """See that every id is below ``vocabulary``.

    Raises:
        ValueError: one is not, so the tokens are another tokenizer's.
    """
    for worst in (int(tokens.min()), int(tokens.max())) if len(tokens) else ():
        if not 0 <= worst < vocabulary:
            raise ValueError(
                f"{path} holds id {worst}, and the ids of the tokenizer are 0 to {vocabulary - 1}: "
                "give the tokenizer that wrote it, tokenizer=PATH"
            )


@dataclass(frozen=True, kw_only=True)
class Importer:
    """Puts blocks of documents into a writer, each with the special tokens around it."""

    writer: Writer
    hasher: Hasher
    vocabulary: int
    seen: Counter[str] = field(default_factory=Counter[str])
    """How many documents were empty, or lacked their end or beginning, and how many ends of text
    are inside of documents."""

    def add(self, tokens: NDArray[Any], lengths: NDArray[np.int64], *, source: int) -> None:
        """Append a block of documents of input number ``source``; empty ones are left out."""
        begin, end, documents = self.writer.begin_of_text, self.writer.end_of_text, len(lengths)
        lengths = lengths[lengths > 0]
        stops = np.cumsum(lengths)
        ended = tokens[stops - 1] == end
        begun = (tokens[stops - lengths] == begin) & (lengths > ended)
        bare = np.delete(tokens, np.concatenate([stops[ended] - 1, (stops - lengths)[begun]]))
        filled = lengths > begun.astype(int) + ended
        lengths = (lengths - begun - ended)[filled]
        hashes = self.hasher(bare, lengths)
        self.writer.append(self._surround(bare, lengths, hashes), source=source)
        self.seen["empty"] += documents - len(lengths)
        self.seen["unended"] += int((filled & ~ended).sum())
        self.seen["unbegun"] += int((filled & ~begun).sum()) if begin is not None else 0
        self.seen["inside"] += int((bare == end).sum())

    def _surround(
        self, bare: NDArray[Any], lengths: NDArray[np.int64], hashes: NDArray[np.uint64]
    ) -> Encoded:
        """The documents as the store holds them, with the tokens that begin and end each."""
        begin, end, stops = self.writer.begin_of_text, self.writer.end_of_text, np.cumsum(lengths)
        bare = bare.astype(token_dtype(self.vocabulary))
        if begin is None:
            return Encoded(np.insert(bare, stops, end), lengths + 1, hashes)
        # Of tokens inserted at one place the first given comes first: an end before a beginning.
        places = np.concatenate([stops, stops - lengths])
        added = np.repeat([end, begin], len(lengths))
        return Encoded(np.insert(bare, places, added), lengths + 2, hashes)


def _write(out: Path, config: PrepareConfig) -> Counter[str]:
    if out.exists():
        raise ValueError(f"out={out} exists: choose another folder, or delete it first")
    choice = Choice.of(config)
    _, read = READERS[config.format]
    files = [read(path) for path in find_token_files(config.input, config.format)]
    hasher = Hasher.of(choice.tokenizer)
    writer = Writer(
        out=out,
        tokenizer=choice.tokenizer,
        tokenizer_name=config.tokenizer,
        tokenizer_revision=choice.revision,
        end_of_text=choice.end_of_text,
        begin_of_text=choice.begin_of_text,
        document_hash=hasher.document_hash,
    )
    importer = Importer(writer=writer, hasher=hasher, vocabulary=vocab_size(choice.tokenizer))
    total = sum(len(file.tokens) for file in files)
    with writer, progress(f"importing {config.input}", unit="tokens", total=total) as advance:
        for source, file in enumerate(files):
            for tokens, lengths in file.blocks(SPELLED_TOKENS):
                check_ids(file.paths[0], tokens, importer.vocabulary)
                importer.add(tokens, lengths, source=source)
                advance(len(tokens))
        writer.empty = importer.seen["empty"]
        writer.finish(InputEntry.of(str(file.paths[0]), file.paths) for file in files)
    return importer.seen
