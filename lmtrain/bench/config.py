"""The configuration of `lmtrain bench`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from lmtrain.ops.config import Backend, OpsConfig


class BenchKind(StrEnum):
    """What is measured."""

    step = "step"
    backends = "backends"
    sp = "sp"
    rows = "rows"
    links = "links"
    data = "data"
    curriculum = "curriculum"
    memory = "memory"


class DataPart(StrEnum):
    """What of the data is measured."""

    prepare = "prepare"
    plan = "plan"
    load = "load"


class BenchDevice(StrEnum):
    """Where it is measured: fp32 on a CPU, bf16 on a GPU."""

    cpu = "cpu"
    cuda = "cuda"


class Floor(StrEnum):
    """Parts of our model that no implementation of it can leave out."""

    products = "products alone"
    attention = "products and attention"


DATA_ROW = 65_536
"""Tokens of a step of what=data."""


@dataclass(kw_only=True)
class BenchConfig:
    """Measurements: of a step against peers, of strategies that share rows, of links, of data."""

    what: BenchKind = BenchKind.step
    """step: one training step of models of one size, against transformers; backends: of one model,
    by several of ops.backend. Under torchrun, sp: every strategy of sequence parallelism, one
    layer; rows: whole stacks under some of them; links: speed between processes and of kernels, for
    parallel.links. data: preparation, decomposition, the plan and the loader; curriculum: steps of
    decomposed and of concatenated documents. memory: a step of the trainer against what
    `lmtrain inspect` predicts of it, in bytes and seconds."""
    pattern: str = ""
    """Our stack; empty is GGGA (step, backends), or A (curriculum)."""
    lengths: list[int] = field(default_factory=lambda: [1024, 4096])
    """Document lengths to measure at; step, backends: every step has the tokens of the longest; sp:
    a row is one document; curriculum: the longest lengths, which divide each other."""
    peers: bool = True
    """Measure others too: models of transformers, and the floor, which is the products of our
    linear layers alone, and with softmax attention (step); tokenizers, datasets, torch's DataLoader
    and OLMo-core, as far as they are installed (data)."""
    remat: bool = False
    """Let our blocks keep only their inputs, and compute the rest again in the backward pass
    (step, backends, curriculum)."""
    compile: bool = False
    """Measure our compiled blocks against the same as they are, in the shape of size, instead of
    peers (step)."""
    backends: list[Backend] = field(default_factory=list[Backend])
    """Values of ops.backend, the first against the others; empty is all that can run (backends)."""
    stacks: list[str] = field(default_factory=lambda: ["GGGA"])
    """Patterns, each with the strategies that are not automatic: stacks=['GGGA G=lasp2 A=ring'].
    G and M also take serial, state passing without a parallel scan (rows)."""
    layers: int = 4
    """Blocks of a stack (rows)."""
    letters: str = "AWMG"
    """Mixers to measure (sp)."""
    size: str = "debug"
    """Sizes of the mixers: a file of configs/model/size (backends, sp, rows, curriculum, memory;
    step with compile=true)."""
    presets: list[str] = field(
        default_factory=lambda: ["transformer", "mamba2", "gated_deltanet", "hybrid_3to1"]
    )
    """Models: files of configs/model (memory)."""
    window: int = 256
    """Window of W (sp)."""
    degrees: list[int] = field(default_factory=list[int])
    """Processes that share a row; empty is 1 and all (sp)."""
    strategies: list[str] = field(default_factory=list[str])
    """Strategies to measure; empty is all that fit a mixer (sp)."""
    links: str | None = None
    """Speeds that the cost model predicts with, as parallel.links (sp, rows)."""
    sizes: list[int] = field(default_factory=lambda: [16_384, 262_144, 4_194_304])
    """Bytes of the messages (links)."""
    parts: list[DataPart] = field(default_factory=lambda: list(DataPart))
    """What to measure (data)."""
    data_source: str = "stdlib"
    """Store to read, as data.source (data, curriculum)."""
    input: str | None = None
    """Texts to prepare, as input of prepare; null is the source of Python's standard library
    (data)."""
    characters: int = 24_000_000
    """How many of them, about (data)."""
    tokenizer: str = "bpe:16384"
    """Tokenizer of the texts, as tokenizer of prepare (data)."""
    documents: int = 5_000_000
    """Made-up documents to decompose and plan (data)."""
    steps: int = 2_000_000
    """Steps of their plan (data)."""
    tokens: int = 1 << 24
    """Tokens that a loader reads in one turn (data)."""
    min_length: int = 64
    """Shortest pieces (data, curriculum)."""
    max_length: int = 65_536
    """Longest pieces, as far as the store has them (data)."""
    tokens_per_step: int | None = None
    """Tokens of a step; null is 65,536 (data), or the longest of lengths (curriculum)."""
    warm_up: int = 2
    """Untimed runs of each: buffers of the gradients, caches of the allocator."""
    repeats: int = 5
    """Timed runs of each, of which the median counts; but for sp and links they take turns."""
    device: BenchDevice = BenchDevice.cpu
    """Where to measure."""
    ops: OpsConfig = field(default_factory=OpsConfig)
    """What computes our models."""
    threads: int | None = None
    """CPU threads; null leaves torch's choice."""
    out: str | None = None
    """Write every measurement to this JSON file."""

    def __post_init__(self) -> None:
        """Choose the stack."""
        self.pattern = self.pattern or ("A" if self.what is BenchKind.curriculum else "GGGA")

    @property
    def sized(self) -> bool:
        """Whether our model has the shape of ``size``."""
        return self.what is BenchKind.backends or (self.what is BenchKind.step and self.compile)

    @property
    def piece_lengths(self) -> list[int]:
        """Powers of two from the shortest piece to the longest."""
        return [
            1 << i for i in range(self.min_length.bit_length() - 1, self.max_length.bit_length())
        ]

    @property
    def row(self) -> int:
        """Tokens of a step (data, curriculum)."""
        longest = max(self.lengths) if self.what is BenchKind.curriculum else DATA_ROW
        return self.tokens_per_step or longest

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        problems = [*self._device(), *self._lengths()]
        if self.warm_up < 0:
            problems.append(f"warm_up={self.warm_up} must not be negative")
        if self.repeats < 1:
            problems.append(f"repeats={self.repeats} must be at least 1")
        if self.threads is not None and self.threads < 1:
            problems.append(f"threads={self.threads} must be at least 1, or null")
        if self.compile and self.what is not BenchKind.step:
            problems.append(f"compile=true is of what=step, not of what={self.what}: leave it out")
        if self.out and not Path(self.out).absolute().parent.is_dir():
            problems.append(f"out={self.out} is in a folder that does not exist: make it first")
        if self.links and not Path(self.links).is_file():
            problems.append(f"links={self.links} is no file: write it with what=links, or say null")
        if len(set(self.sizes)) < 2 or min(self.sizes) < 8:  # noqa: PLR2004  two unknowns
            problems.append(f"sizes={self.sizes} must be two or more, of 8 bytes or more")
        return problems + self._data()

    def _device(self) -> list[str]:
        import torch

        if self.device is BenchDevice.cpu or torch.cuda.is_available():
            return []
        return ["device=cuda, but torch finds no CUDA device: say device=cpu"]

    def _lengths(self) -> list[str]:
        if not self.lengths or min(self.lengths) < 1:
            return [f"lengths={self.lengths} must be positive"]
        steps = self.what in (BenchKind.step, BenchKind.backends)
        if steps and any(max(self.lengths) % n for n in self.lengths):
            return [f"lengths={self.lengths} must be positive and divide the longest"]
        return []

    def _data(self) -> list[str]:
        """Problems of the keys of data and curriculum."""
        if self.what not in (BenchKind.data, BenchKind.curriculum) or not self.lengths:
            return []
        curriculum = self.what is BenchKind.curriculum
        longest = {"lengths": self.lengths} if curriculum else {"max_length": [self.max_length]}
        powers = {"min_length": [self.min_length], **longest}
        if not curriculum:
            powers["tokens_per_step"] = [self.row]
        problems = [
            f"{key}={getattr(self, key)} must be at least 1"
            for key in ("characters", "documents", "steps", "tokens")
            if getattr(self, key) < 1
        ]
        problems += [
            f"{key}={value} is not a power of two: use one like 64 or 1024"
            for key, values in powers.items()
            for value in values
            if value < 1 or value & (value - 1)
        ]
        if not self.parts:
            problems.append("parts=[] measures nothing: name some of prepare, plan, load")
        [(key, values)] = longest.items()
        if not problems and self.min_length > min(values):
            problems.append(
                f"min_length={self.min_length} is above {key}={min(values)}: lower the first or "
                "raise the second"
            )
        if not problems and curriculum and (self.row < 1 or self.row % max(values)):
            problems.append(
                f"tokens_per_step={self.row} does not divide by the longest of lengths, "
                f"{max(values)}: use a multiple of it, or null"
            )
        return problems
