"""Statistics of a store: how long its documents are, and what each curriculum makes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lmtrain.data.curriculum_config import (
    CurriculumName,
    LongDocuments,
    OddsScale,
    Remainder,
    ViewName,
)
from lmtrain.data.plan import Plan
from lmtrain.data.store import Side
from lmtrain.data.summary import summarize

if TYPE_CHECKING:
    from lmtrain.data.curriculum_config import CurriculumConfig
    from lmtrain.data.prepare_config import PrepareConfig
    from lmtrain.data.store import Store

PARTS = 8
"""Equal parts of a cycle that are told apart."""

PICTURES = (".png", ".pdf", ".svg")

CYCLES = 8
STEPS_OF_A_PART = 64
"""What is looked at: so many steps of each part of the first cycles."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Documents by their length: bin ``i`` has those of ``2^i`` to ``2^(i+1) - 1`` tokens."""

    documents: NDArray[np.int64]
    tokens: NDArray[np.int64]

    @classmethod
    def of(cls, lengths: NDArray[np.int64]) -> Histogram:
        """The histogram of documents of these lengths, in tokens."""
        bins = np.frexp(lengths.astype(np.float64))[1] - 1
        tokens = np.zeros(int(bins.max()) + 1, np.int64)
        np.add.at(tokens, bins, lengths)
        return cls(documents=np.bincount(bins), tokens=tokens)


@dataclass(frozen=True, kw_only=True, eq=False)
class Course:
    """What a curriculum makes of a store, in one pass over it."""

    name: str
    lengths: list[int]
    """Lengths of pieces, shortest first."""
    steps: list[int]
    """Steps with pieces of each length."""
    context: float
    """Tokens that a token sees before it, on average."""
    kept: float
    """Share of the targets that is trained on."""
    padding: float
    """Share of the tokens that stand for nothing."""
    shares: NDArray[np.float64]
    """``[PARTS, lengths]``: share of the steps of each length, in each part of a cycle."""

    @property
    def mean_lengths(self) -> NDArray[np.float64]:
        """``[PARTS]``: mean length of a step in each part of a cycle."""
        return self.shares @ np.array(self.lengths, np.float64)

    def work(self, length: int) -> float:
        """Attention work over that of documents that run on and are cut at ``length``."""
        return self.context / ((length - 1) / 2) if length > 1 else 1.0


def describe(store: Store, config: PrepareConfig) -> str:
    """All of it as text; the picture goes to ``config.out``, if that is set.

    Raises:
        ValueError: ``out`` is no picture, or the configured curriculum finds no piece to draw.
    """
    if config.out and Path(config.out).suffix not in PICTURES:
        raise ValueError(f"out={config.out} is no picture: use a name with {', '.join(PICTURES)}")
    histogram = Histogram.of(store.documents(Side.train).lengths)
    found = courses(store, config)
    plan = _plan(store, config.curriculum, config)
    if config.out:
        from lmtrain.data.tools.plot import plot

        plot(Path(config.out).expanduser(), store.folder.name, histogram, found, config.curriculum)
    return "\n".join(
        [
            *_histogram_table(histogram),
            "",
            f"with curriculum={config.curriculum.name}, one pass in steps of "
            f"{config.tokens_per_step:,} tokens:",
            summarize(plan),
            "",
            *_course_table(found, config.curriculum.max_length),
        ]
    )


def courses(store: Store, config: PrepareConfig) -> list[Course]:
    """The course of each curriculum that `compared` names; those without a step are left out."""
    found: list[Course] = []
    for name, curriculum in compared(config.curriculum).items():
        try:
            plan = _plan(store, curriculum, config)
        except ValueError:
            continue  # nothing to draw; of the configured one the user is told
        # Stages follow one another once, so there the parts are those of the whole pass.
        staged = curriculum.name == CurriculumName.progressive or curriculum.final_long > 0
        cycle = plan.steps_per_pass if staged else plan.schedule.cycle_steps
        found.append(_course(name, plan, cycle))
    return found


def compared(configured: CurriculumConfig) -> dict[str, CurriculumConfig]:
    """Name to curriculum: those that need no keys of their own, baselines, the configured one.

    The other keys are as configured, as far as they fit.
    """
    found: dict[str, CurriculumConfig] = {}
    plain = replace(configured, view=ViewName.decompose, final_long=0.0, odds_scale=OddsScale.none)
    for name in CurriculumName:
        found[name] = replace(plain, name=name)
    rows = replace(
        plain,
        name=CurriculumName.fixed,
        remainder=Remainder.drop,
        long_docs=LongDocuments.greedy,
    )
    found[CurriculumName.fixed] = rows
    for view in (ViewName.concat, ViewName.concat_masked, ViewName.best_fit):
        found[view] = replace(rows, view=view)
    # What a window shows depends on the steps of the run, so it is not told for one pass.
    del found[CurriculumName.window_warmup]
    found = {name: curriculum for name, curriculum in found.items() if not curriculum.check()}
    packed = configured.view != ViewName.decompose
    found[configured.view if packed else configured.name] = configured
    return found


def _plan(store: Store, curriculum: CurriculumConfig, config: PrepareConfig) -> Plan:
    try:
        return Plan.build(
            store, curriculum, seed=config.seed, tokens_per_step=config.tokens_per_step
        )
    except ValueError as error:  # the key has no section here
        told = str(error).replace("train.tokens_per_step", "tokens_per_step")
        raise ValueError(told) from error


def _course(name: str, plan: Plan, cycle: int) -> Course:
    lengths = sorted(set(plan.lengths))
    counts = plan.counts(plan.steps_per_pass)
    steps = dict.fromkeys(lengths, 0)
    for length, count in zip(plan.lengths, counts, strict=True):
        steps[length] += count
    return Course(
        name=name,
        lengths=lengths,
        steps=list(steps.values()),
        context=float(np.average([bucket.context for bucket in plan.buckets], weights=counts)),
        kept=plan.drawn.kept / max(1, plan.drawn.pairs),
        padding=plan.drawn.padding / sum(bucket.tokens for bucket in plan.buckets),
        shares=_shares(plan, lengths, cycle),
    )


def _shares(plan: Plan, lengths: list[int], cycle: int) -> NDArray[np.float64]:
    """``[PARTS, lengths]`` by looking at steps spread over the first cycles."""
    spread = (np.arange(STEPS_OF_A_PART) + 0.5) / STEPS_OF_A_PART
    seen = np.zeros((PARTS, len(lengths)))
    for number in range(min(CYCLES, max(1, plan.steps_per_pass // cycle))):
        for part in range(PARTS):
            for place in (part + spread) * cycle / PARTS:
                length = plan.length(number * cycle + int(place))
                seen[part, lengths.index(length)] += 1
    return seen / seen.sum(axis=1, keepdims=True)


def _histogram_table(histogram: Histogram) -> list[str]:
    documents, tokens = histogram.documents, histogram.tokens
    rows = [f"{'documents of':>19} {'documents':>13} {'tokens':>16} {'share':>7}"]
    for i in np.flatnonzero(documents).tolist():
        span = f"{1 << i:,} to {(2 << i) - 1:,}"
        rows.append(
            f"{span:>19} {documents[i]:>13,} {tokens[i]:>16,} {tokens[i] / tokens.sum():>7.1%}"
        )
    return [*rows, f"{'all':>19} {documents.sum():>13,} {tokens.sum():>16,}"]


def _course_table(found: list[Course], length: int) -> list[str]:
    rows = [
        f"{'curriculum':<16} {'kept':>6} {'padding':>7} {'steps':>9} {'context':>9} "
        f"{'attention':>9} {'mean length in a cycle':>23}"
    ]
    for course in found:
        means = course.mean_lengths
        rows.append(
            f"{course.name:<16} {course.kept:>6.1%} {course.padding:>7.1%} "
            f"{sum(course.steps):>9,} {course.context:>9,.0f} {course.work(length):>9.1%} "
            f"{f'{means[0]:,.0f} to {means[-1]:,.0f}':>23}"
        )
    return [*rows, f"attention: work over that of documents that run on, cut at {length:,}"]
