"""The configuration of `lmtrain bench`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class BenchKind(StrEnum):
    """What is measured."""

    step = "step"


class BenchDevice(StrEnum):
    """Where it is measured: fp32 on a CPU, bf16 on a GPU."""

    cpu = "cpu"
    cuda = "cuda"


@dataclass(kw_only=True)
class BenchConfig:
    """The same work given to lmtrain and to its peers."""

    what: BenchKind = BenchKind.step
    """step: one training step of models of one size, against transformers."""
    pattern: str = "GGGA"
    """Our stack."""
    lengths: list[int] = field(default_factory=lambda: [1024, 4096])
    """Document lengths to measure at; every step has the tokens of the longest."""
    peers: bool = True
    """Measure the models of transformers too."""
    remat: bool = False
    """Let our blocks keep only their inputs, and compute the rest again in the backward pass."""
    warm_up: int = 2
    """Untimed steps of each model: buffers of the gradients, caches of the allocator."""
    repeats: int = 5
    """Timed steps of each model; the models take turns, and the median counts."""
    device: BenchDevice = BenchDevice.cpu
    """Where to measure."""
    threads: int | None = None
    """CPU threads; null leaves torch's choice."""
    out: str | None = None
    """Write every measurement to this JSON file."""

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        problems: list[str] = []
        if not self.lengths or any(n < 1 or max(self.lengths) % n for n in self.lengths):
            problems.append(f"lengths={self.lengths} must be positive and divide the longest")
        if self.warm_up < 0:
            problems.append(f"warm_up={self.warm_up} must not be negative")
        if self.repeats < 1:
            problems.append(f"repeats={self.repeats} must be at least 1")
        if self.threads is not None and self.threads < 1:
            problems.append(f"threads={self.threads} must be at least 1, or null")
        if self.out and not Path(self.out).absolute().parent.is_dir():
            problems.append(f"out={self.out} is in a folder that does not exist: make it first")
        return problems
