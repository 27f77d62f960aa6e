"""Preparation: texts become a token store, by any number of processes, and after any kill.

The input is planned as units. Workers turn each into a finished unit on disk; then the store is
put together from them in order. What is finished stays when preparation stops, and the same command
goes on from there.
"""

from __future__ import annotations

import sys
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from lmtrain.data.builder import Job
from lmtrain.data.choice import Choice, bpe_size
from lmtrain.data.encoding import Encoded
from lmtrain.data.finished import UnitFolder
from lmtrain.data.hub import dataset_of
from lmtrain.data.identity import Identity, input_entries
from lmtrain.data.inputs import find_inputs
from lmtrain.data.lock import locked
from lmtrain.data.manifest import token_dtype
from lmtrain.data.progress import token_progress
from lmtrain.data.sampling import first_texts, spread_texts
from lmtrain.data.store import Store
from lmtrain.data.tally import Tally
from lmtrain.data.tokenize import train_bpe, vocab_size
from lmtrain.data.units import plan_units
from lmtrain.data.workers import build_units, usable_cores
from lmtrain.data.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer

    from lmtrain.data.manifest import InputEntry
    from lmtrain.data.prepare_config import PrepareConfig
    from lmtrain.data.tally import Malformed
    from lmtrain.data.units import Unit

TRAINING_CHARACTERS = 1 << 25
"""About how much text a tokenizer is trained on."""


def prepare(config: PrepareConfig) -> Path:
    """Write the token store of ``config.out``.

    If it stops, for whatever reason, units that are finished stay in a hidden folder beside it,
    from which the same command goes on.

    Returns:
        Its folder.

    Raises:
        ValueError: the configuration, the input or the tokenizer cannot be used, ``out`` exists,
            or another preparation of it is running or unfinished.
    """
    if problems := config.check():
        raise ValueError("\n".join(problems))
    out = Path(config.out).expanduser()
    try:
        with locked(out.absolute(), wait=False):
            malformed = _build(out, config)
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
        *malformed.places,
    ]
    if malformed.count > len(malformed.places):
        lines.append(f"... and {malformed.count - len(malformed.places)} more")
    return "\n".join(lines)


def trained(config: PrepareConfig, units: Sequence[Unit]) -> Tokenizer | None:
    """The tokenizer of ``bpe:N``, trained on a sample of the documents; None for any other."""
    size = bpe_size(config.tokenizer)
    if size is None:
        return None
    print(f"training a tokenizer of {size} tokens", file=sys.stderr, flush=True)
    texts = spread_texts if config.max_documents is None else first_texts
    sample = texts(units, TRAINING_CHARACTERS, field=config.field, dataset=dataset_of(config))
    learned = list(islice(sample, config.max_documents))
    tokenizer = train_bpe(learned, vocab_size=size)
    if (found := vocab_size(tokenizer)) < size:
        why = "the text has no more pairs that repeat" if learned else "its sample holds no text"
        told = f"tokenizer={config.tokenizer} ends with {found} tokens: {why}"
        print(told, file=sys.stderr, flush=True)
    return tokenizer


def _build(out: Path, config: PrepareConfig) -> Malformed:
    if out.exists():
        raise ValueError(f"out={out} exists: choose another folder, or delete it first")
    inputs = find_inputs(config)
    units = plan_units(inputs, field=config.field)
    identity = Identity.of(config, inputs)
    path = out.with_name(f".{out.name}.units")
    choice = Choice.of(config, identity.trained(path) or trained(config, units))
    identity.begin(path, choice.tokenizer.to_str())
    folder = UnitFolder(path, token_dtype(vocab_size(choice.tokenizer)))
    try:
        entries = input_entries(inputs)
        tally = Tally(units, folder, config.max_errors, config.max_documents)
        _tokenise(config, units, tally, choice, folder)
        identity.check_unchanged(inputs)
        _assemble(out, config, choice, tally, folder, entries())
    finally:
        folder.leave()
    return tally.malformed


def _tokenise(
    config: PrepareConfig, units: Sequence[Unit], tally: Tally, choice: Choice, folder: UnitFolder
) -> None:
    """Finish all units that the store needs."""
    job = Job(
        folder=str(folder.path),
        field=config.field,
        end_of_text=choice.end_of_text,
        begin_of_text=choice.begin_of_text,
        max_errors=config.max_errors,
        max_documents=config.max_documents,
        dataset=dataset_of(config),
    )
    todo = tally.resume()
    workers = min(config.workers or usable_cores(), max(1, len(todo)))
    total = sum(unit.bytes for unit in units)
    done = total - sum(unit.bytes for unit in todo)
    if done:
        print(f"going on from {folder.path}: {done / total:.0%} of the input", file=sys.stderr)
    title = f"tokenising {config.input}" + (f" with {workers} processes" if workers > 1 else "")
    with (
        closing(build_units(job, todo, workers)) as reports,
        token_progress(title, total=total, done=done) as advance,
    ):
        for report in reports:
            advance(report.bytes, report.tokens)
            if tally.note(report):
                break


def _assemble(
    out: Path,
    config: PrepareConfig,
    choice: Choice,
    tally: Tally,
    folder: UnitFolder,
    entries: list[InputEntry],
) -> None:
    """Put the store together from its units, which are not needed any more then."""
    writer = Writer(
        out=out,
        tokenizer=choice.tokenizer,
        tokenizer_name=config.tokenizer,
        tokenizer_revision=choice.revision,
        end_of_text=choice.end_of_text,
        begin_of_text=choice.begin_of_text,
    )
    with writer:
        for unit, documents in tally.taken:
            tokens, lengths, hashes = folder.read(unit.number)
            encoded = Encoded(tokens, lengths[:documents], hashes[:documents])
            writer.append(encoded, source=unit.source)
        if writer.tokens == 0:
            folder.remove()
            if tally.malformed.places:
                raise ValueError(f"input={config.input} holds no text: {tally.malformed.places[0]}")
        writer.finish(entries, malformed=tally.malformed.count)
    folder.remove()
