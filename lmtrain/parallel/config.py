"""The configuration of sequence parallelism."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

from lmtrain.parallel.strategy import FITS, Strategy


@dataclass(kw_only=True)
class StrategyConfig:
    """A strategy for the mixers of each letter of a pattern; auto takes the cheapest."""

    A: Strategy = Strategy.auto
    """Attention: ring, zigzag, ulysses, usp, gather."""
    W: Strategy = Strategy.auto
    """Window attention: halo, ring, ulysses, usp, gather."""
    M: Strategy = Strategy.auto
    """Mamba-2: lasp2, zeco, ulysses."""
    G: Strategy = Strategy.auto
    """Gated DeltaNet: lasp2, zeco, ulysses."""

    def of(self, letter: str) -> Strategy:
        """The strategy of a letter."""
        return getattr(self, letter)


@dataclass(kw_only=True)
class ParallelConfig:
    """Rows spread over several processes."""

    sequence: int = 1
    """Processes that share a row, each with a span of it; neighbours, so 8 fit a machine of 8."""
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    """How each mixer brings the spans together."""
    links: str | None = None
    """Speed of the links and of the kernels, from `lmtrain bench what=links`; null uses typical
    values."""

    def may_use(self, strategy: Strategy, letters: Iterable[str]) -> bool:
        """Whether a mixer of these letters of a pattern can come to run under ``strategy``."""
        return any(
            strategy in FITS[letter] and self.strategy.of(letter) in (Strategy.auto, strategy)
            for letter in letters
        )

    def check(self, world_size: int) -> list[str]:
        """Every problem of so many processes, each a sentence with key, value and remedy."""
        if self.sequence < 1:
            return [f"parallel.sequence={self.sequence} must be at least 1"]
        problems: list[str] = []
        if world_size % self.sequence:
            there = "1 process" if world_size == 1 else f"{world_size} processes"
            problems.append(
                f"parallel.sequence={self.sequence} does not divide the {there}: "
                f"start a multiple of {self.sequence} (torchrun, or launch.nproc of a training), "
                "or lower it"
            )
        for letter in (f.name for f in fields(self.strategy)):
            chosen, fitting = self.strategy.of(letter), FITS[letter]
            if chosen not in (Strategy.auto, *fitting):
                problems.append(
                    f"parallel.strategy.{letter}={chosen} does not serve that mixer: choose auto, "
                    f"{', '.join(fitting)}"
                )
        if self.links and not Path(self.links).is_file():
            problems.append(
                f"parallel.links={self.links} is no file: write it with `lmtrain bench what=links "
                f"out={self.links}` under torchrun, or say null"
            )
        return problems
