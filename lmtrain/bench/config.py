"""The configuration of `lmtrain bench`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class BenchKind(StrEnum):
    """What is measured."""

    step = "step"
    sp = "sp"
    links = "links"


class BenchDevice(StrEnum):
    """Where it is measured: fp32 on a CPU, bf16 on a GPU."""

    cpu = "cpu"
    cuda = "cuda"


@dataclass(kw_only=True)
class BenchConfig:
    """Measurements: of a step against peers, of strategies that share rows, of links."""

    what: BenchKind = BenchKind.step
    """step: one training step of models of one size, against transformers; sp: every strategy of
    sequence parallelism, one layer; links: speed between processes and of kernels, for
    parallel.links. The last two run under torchrun."""
    pattern: str = "GGGA"
    """Our stack (step)."""
    lengths: list[int] = field(default_factory=lambda: [1024, 4096])
    """Document lengths to measure at; step: every step has the tokens of the longest; sp: a row
    is one document."""
    peers: bool = True
    """Measure the models of transformers too (step)."""
    remat: bool = False
    """Let our blocks keep only their inputs, and compute the rest again in the backward pass
    (step)."""
    letters: str = "AWMG"
    """Mixers to measure (sp)."""
    size: str = "debug"
    """Sizes of these mixers: a file of configs/model/size (sp)."""
    window: int = 256
    """Window of W (sp)."""
    degrees: list[int] = field(default_factory=list[int])
    """Processes that share a row; empty is 1 and all (sp)."""
    strategies: list[str] = field(default_factory=list[str])
    """Strategies to measure; empty is all that fit a mixer (sp)."""
    links: str | None = None
    """Speeds that the cost model predicts with, as parallel.links (sp)."""
    sizes: list[int] = field(default_factory=lambda: [16_384, 262_144, 4_194_304])
    """Bytes of the messages (links)."""
    warm_up: int = 2
    """Untimed runs of each: buffers of the gradients, caches of the allocator."""
    repeats: int = 5
    """Timed runs of each, of which the median counts; the models of step take turns."""
    device: BenchDevice = BenchDevice.cpu
    """Where to measure."""
    threads: int | None = None
    """CPU threads; null leaves torch's choice."""
    out: str | None = None
    """Write every measurement to this JSON file."""

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        problems = self._lengths()
        if self.warm_up < 0:
            problems.append(f"warm_up={self.warm_up} must not be negative")
        if self.repeats < 1:
            problems.append(f"repeats={self.repeats} must be at least 1")
        if self.threads is not None and self.threads < 1:
            problems.append(f"threads={self.threads} must be at least 1, or null")
        if self.out and not Path(self.out).absolute().parent.is_dir():
            problems.append(f"out={self.out} is in a folder that does not exist: make it first")
        if self.links and not Path(self.links).is_file():
            problems.append(f"links={self.links} is no file: write it with what=links, or say null")
        if len(set(self.sizes)) < 2 or min(self.sizes) < 8:  # noqa: PLR2004  two unknowns
            problems.append(f"sizes={self.sizes} must be two or more, of 8 bytes or more")
        return problems

    def _lengths(self) -> list[str]:
        if not self.lengths or min(self.lengths) < 1:
            return [f"lengths={self.lengths} must be positive"]
        if self.what is BenchKind.step and any(max(self.lengths) % n for n in self.lengths):
            return [f"lengths={self.lengths} must be positive and divide the longest"]
        return []
