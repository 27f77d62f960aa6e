"""The configuration of preparation: what is read, and how it becomes a token store."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from lmtrain.data.config import at_least
from lmtrain.data.curriculum_config import CurriculumConfig


class Mode(StrEnum):
    """What ``lmtrain prepare`` does."""

    build = "build"
    verify = "verify"
    stats = "stats"
    peek = "peek"
    if not TYPE_CHECKING:  # what users type is a keyword here
        vars()["import"] = "import"
    import_ = "import"
    export = "export"


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
    megatron = "megatron"
    datatrove = "datatrove"
    dolma = "dolma"


TOKEN_FORMATS = (InputFormat.megatron, InputFormat.datatrove, InputFormat.dolma)
"""Formats of files that hold tokens, not texts."""


@dataclass(kw_only=True)
class PrepareConfig:
    """How ``lmtrain prepare`` turns texts into a token store, and what it tells of one."""

    mode: Mode = Mode.build
    """build: texts to a store; verify: read a store in full; stats: lengths of its documents and
    what curricula make of them; peek: some documents as text; import, export: token files of other
    toolkits."""
    input: str = ""
    """A file, a folder, a pattern like ``corpus/*.jsonl.gz``, or ``hf:NAME``, a dataset of the
    Hugging Face hub or a folder that ``datasets`` loads; of verify, stats, peek and export: the
    folder of a store."""
    out: str = ""
    """build, import: folder of the new store, which must not exist; export: PREFIX of PREFIX.bin;
    stats: a picture like ``stats.png``, if you want one."""
    format: InputFormat = InputFormat.auto
    """auto goes by the suffix; jsonl and txt also read ``.gz`` and ``.zst``; txt reads text and
    source files of any suffix;
    megatron, datatrove, dolma: of import, and the first of export."""
    tokenizer: str = "bpe:16384"
    """``bpe:N`` trains a byte-level BPE of N tokens on a sample of the input; ``bytes`` is one
    token a byte; else the path of a ``tokenizer.json`` or of its folder, or a name on the Hugging
    Face hub."""
    tokenizer_revision: str | None = None
    """Branch, tag or commit of a tokenizer from the hub; null is its main branch."""
    end_of_text: str | None = None
    """Special token that ends a document; null finds it among the usual names."""
    begin_of_text: str | None = None
    """Special token that begins a document; null is none."""
    field: str = "text"
    """Key (jsonl) or column (parquet) that holds the text."""
    split: TextSplit = TextSplit.file
    """Text files: one document per file, per line, or per paragraph (ended by an empty line)."""
    max_errors: int = 100
    """Malformed lines or files that are skipped and reported before it stops."""
    max_documents: int | None = None
    """build: stop after so many documents."""
    workers: int | None = None
    """Processes that tokenise, one core each; null is one for every core. They do not change the
    store."""
    dry_run: bool = False
    """build: estimate documents, tokens, disk and time from a sample, and write nothing."""
    dataset_config: str | None = None
    """hf: name of the dataset's configuration; null is its default."""
    dataset_split: str = "train"
    """hf: split of the dataset."""
    revision: str | None = None
    """hf: branch, tag or commit of the dataset; null is its main branch."""
    streaming: bool = False
    """hf: read the dataset from where it is, shard by shard, instead of downloading it first."""
    count: int = 3
    """peek: documents to show."""
    seed: int = 0
    """peek: decides which documents; stats: decides the order of the curricula."""
    tokens_per_step: int = 4096
    """stats: tokens of a step."""
    curriculum: CurriculumConfig = dataclasses.field(default_factory=CurriculumConfig)
    """stats: how documents are cut."""

    def check(self) -> list[str]:
        """Every problem that can be seen without data, a sentence each."""
        problems = [
            at_least("max_errors", self.max_errors, 0),
            at_least("max_documents", self.max_documents, 1),
            at_least("workers", self.workers, 1),
            at_least("count", self.count, 1),
            at_least("seed", self.seed, 0),
            at_least("tokens_per_step", self.tokens_per_step, 1),
            *self._check_format(),
            *self._check_dataset(),
        ]
        if self.mode is not Mode.build:
            problems += [
                f"{key}={value} is not for mode={self.mode}, which would not heed it: leave it out"
                for key, value in {
                    "dry_run": self.dry_run,
                    "max_documents": self.max_documents,
                }.items()
                if value
            ]
        if self.dry_run and self.streaming:
            problems.append("dry_run=true cannot know how much a stream holds: use streaming=false")
        if not self.input:
            problems.append("input is empty: give a file, a folder or a pattern, input=PATH")
        if not self.out and self.mode in (Mode.build, Mode.import_):
            problems.append("out is empty: give the folder of the new store, out=PATH")
        if not self.out and self.mode == Mode.export:
            problems.append("out is empty: give the PREFIX of PREFIX.bin and PREFIX.idx, out=PATH")
        if self.out and not Path(self.out).name:
            problems.append(f"out={self.out} ends in no name: give a new one, out=PATH")
        if self.mode == Mode.stats:
            problems += self.curriculum.check()
        kind, _, size = self.tokenizer.partition(":")
        if kind == "bpe" and not (size.isdecimal() and int(size) > 256):  # noqa: PLR2004
            wrong = "is too small" if size.isdecimal() else "has no size"
            problems.append(f"tokenizer={self.tokenizer} {wrong}: use bpe:N with N of 257 or more")
        return [problem for problem in problems if problem]

    def _check_format(self) -> list[str]:
        """A format must be one that the mode reads or writes."""
        told = f"format={self.format} is not for mode={self.mode}"
        match self.mode:
            case Mode.build if self.format in TOKEN_FORMATS:
                return [f"{told}: it holds tokens, so use mode=import"]
            case Mode.import_ if self.format not in TOKEN_FORMATS:
                return [f"{told}: use one of {', '.join(TOKEN_FORMATS)}"]
            case Mode.import_ if self.tokenizer.startswith("bpe:"):
                return [
                    f"tokenizer={self.tokenizer} would be trained, and the tokens have theirs "
                    "already: give its tokenizer.json, tokenizer=PATH"
                ]
            case Mode.export if self.format != InputFormat.megatron:
                return [f"{told}: use format=megatron"]
            case _:
                return []

    def _check_dataset(self) -> list[str]:
        """Keys of datasets are for datasets."""
        keys = ("dataset_config", "dataset_split", "revision", "streaming")
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        if self.input.startswith("hf:"):
            return []
        return [
            f"{key}={getattr(self, key)} is for datasets: use input=hf:NAME, or leave it out"
            for key in keys
            if getattr(self, key) != defaults[key]
        ]
