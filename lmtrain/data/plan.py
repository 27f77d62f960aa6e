"""The plan: the global batch of every step, as a pure function of data, curriculum and seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lmtrain.data.bucket import Bucket
from lmtrain.data.cells import Supply, bucket_name
from lmtrain.data.curriculum import Schedule
from lmtrain.data.mixture import Mixture, Run, build_mixture
from lmtrain.data.order import Amounts, Window, make_schedule, order_identity
from lmtrain.data.replan import Continued, Past, changes, finish, merged, steps_left
from lmtrain.data.store import Side
from lmtrain.data.views import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lmtrain.data.bucket import Draw
    from lmtrain.data.curriculum_config import CurriculumConfig
    from lmtrain.data.sources import Corpus

PLAN_VERSION = 1
"""Raised when the same configuration would give other batches."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Plan:
    """``plan[step]`` is the global batch of a step; every rank builds the same plan alone.

    A bucket is read in a random order without repeats; after its last piece a new epoch begins, in
    another order. ``identity`` is all that decides the batches, by the key a user sets it with.
    """

    view: View
    """All buckets of the training documents."""
    buckets: list[Bucket]
    """The buckets that hold at least one batch, shortest first; only these are drawn from."""
    mixture: Mixture
    """The order of their pieces, and the sources these come from."""
    schedule: Schedule | Continued
    window: Window | None
    """How much of a piece is seen; None is all of it."""
    tokens_per_step: int
    seed: int
    skip_steps: Sequence[Sequence[int]]
    past: Sequence[Past]
    """The plans that the run followed before this one."""
    identity: dict[str, Any]

    @classmethod
    def build(
        cls,
        data: Corpus,
        curriculum: CurriculumConfig,
        *,
        seed: int,
        tokens_per_step: int,
        skip_steps: Sequence[Sequence[int]] = (),
        steps: int | None = None,
        past: Sequence[Past] = (),
        supply: Supply | None = None,
    ) -> Self:
        """The plan of one store or several sources under a curriculum.

        Args:
            data: what is read.
            curriculum: how it is cut, and in which order.
            seed: of the order.
            tokens_per_step: tokens of a step.
            skip_steps: ranges of steps that are left out.
            steps: of the run, which limits how often sources are repeated, and says where the end
                of it is; None is not known.
            past: the plans that the run followed before; this one goes on where they ended.
            supply: of ``data`` under ``curriculum``, for who builds several plans; None makes it.

        Raises:
            ValueError: no bucket holds a batch, a stage has none, or the sources cannot be mixed as
                asked.
        """
        lengths, supply = curriculum.drawn_lengths, supply or Supply.of(data, curriculum)
        kept = [n for n, b in enumerate(supply.view.buckets) if b.tokens >= tokens_per_step]
        buckets = [supply.view.buckets[number] for number in kept]
        if not buckets:
            raise ValueError(
                f"train.tokens_per_step={tokens_per_step} is more than any length of {lengths} has "
                f"in {len(data.documents(Side.train).starts)} documents: lower it, or use more data"
            )
        first = past[-1].step if past else 0
        mixture = build_mixture(
            data,
            buckets,
            [supply.pieces[number] for number in kept],
            seed=seed,
            past=past,
            run=Run(steps, (steps - first) * tokens_per_step) if steps else None,
        )
        amounts = Amounts(
            weights=mixture.weights,
            used=mixture.used.sum(0).tolist(),
            before=past[-1].tokens if past else 0,
            steps=steps - first if steps else sum(mixture.weights) // tokens_per_step,
            per_step=tokens_per_step,
        )
        schedule = make_schedule(curriculum, supply.view.buckets, buckets, amounts, seed=seed)
        rest = past[-1].rest if past and not schedule.has_opening else {}
        left = [rest.get(bucket_name(bucket), 0) for bucket in buckets]
        key = seed, "rest", first
        return cls(
            view=supply.view,
            buckets=buckets,
            mixture=mixture,
            schedule=finish(schedule, left, tokens_per_step=tokens_per_step, key=key),
            window=Window.of(curriculum),
            tokens_per_step=tokens_per_step,
            seed=seed,
            skip_steps=skip_steps,
            past=past,
            identity={
                "plan": PLAN_VERSION,
                **data.identity,
                **mixture.identity,
                **({"resume.replan": [each.digest for each in past]} if past else {}),
                **order_identity(curriculum, schedule, amounts),
                "train.tokens_per_step": tokens_per_step,
                "run.seed": seed,
            },
        )

    @property
    def lengths(self) -> list[int]:
        """Lengths of the buckets that are drawn from, shortest first."""
        return [bucket.length for bucket in self.buckets]

    @property
    def drawn(self) -> View:
        """The view without the buckets that hold no batch."""
        return self.view.only(self.buckets)

    @property
    def hash(self) -> str:
        """Two plans of one hash give the same batches, however the run is split or continued."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def __getitem__(self, step: int) -> Draw:
        """The global batch of a step, in about a millisecond for any step."""
        bucket, index = self._pieces(step)
        return bucket.draw(index, window=self.window and self.window.at(step))

    def length(self, step: int) -> int:
        """The length of the pieces of a step, without drawing them."""
        bucket, _ = self.schedule[self._place(step)]
        return self.buckets[bucket].length

    def targets(self, step: int) -> int:
        """Targets in the global batch of a step, padding and cut labels not counted."""
        number, _ = self.schedule[self._place(step)]
        here = self.buckets[number]
        if here.packing is None:
            return here.in_pieces(self.tokens_per_step // here.length)
        bucket, index = self._pieces(step)
        return bucket.targets(index)

    def differences(self, identity: dict[str, Any]) -> list[str]:
        """What of another plan's ``identity`` differs from this one, a sentence each."""
        return changes(identity, self.identity)

    def counts(self, steps: int) -> list[int]:
        """How many of the first ``steps`` steps of this plan draw from each of ``buckets``."""
        return self.schedule.counts(steps)

    @property
    def first_step(self) -> int:
        """The step of the run where this plan begins; others led up to there."""
        return self.past[-1].step if self.past else 0

    def tokens(self, step: int) -> int:
        """Tokens that the run has seen before a step, in the plans before this one too."""
        before = self.past[-1].tokens if self.past else 0
        return before + (step - self.first_step) * self.tokens_per_step

    def given(self, step: int) -> dict[str, float]:
        """The part of each source in what this plan draws before a step; none for one source."""
        sources = self.mixture.sources
        if len(sources) == 1:
            return {}
        tokens = self.mixture.drawn(self.pieces(step)).sum(1)
        return dict(zip(sources, (tokens / max(1, tokens.sum())).tolist(), strict=True))

    def pieces(self, step: int) -> list[int]:
        """How many pieces of each of ``buckets`` this plan draws before a step of the run."""
        counts = zip(self.schedule.counts(self._place(step)), self.lengths, strict=True)
        return [count * self.tokens_per_step // length for count, length in counts]

    def until(self, step: int) -> Past:
        """What the run has used before a step, for a plan that goes on from there."""
        left = steps_left(self.schedule, self._place(step))
        used = self.mixture.use(self.pieces(step))
        return Past(
            step=step,
            plan=self.hash,
            identity=self.identity,
            tokens=self.tokens(step),
            used=merged(self.past[-1].used, used) if self.past else used,
            rest={
                bucket_name(bucket): count * self.tokens_per_step
                for bucket, count in zip(self.buckets, left, strict=True)
            },
        )

    @property
    def warnings(self) -> list[str]:
        """What a user may not expect, a sentence each."""
        return [
            f"length {bucket.length} is left out: its {len(bucket)} {bucket.kind} are less than a "
            f"step of {self.tokens_per_step} tokens"
            for bucket in self.view.buckets
            if bucket not in self.buckets
        ] + self.mixture.warnings

    @property
    def steps_per_pass(self) -> int:
        """Steps that see the data once."""
        return sum(bucket.tokens for bucket in self.buckets) // self.tokens_per_step

    def _pieces(self, step: int) -> tuple[Bucket, NDArray[np.int64]]:
        """The bucket of a step, and which of its pieces."""
        number, ordinal = self.schedule[self._place(step)]
        bucket = self.buckets[number]
        count = self.tokens_per_step // bucket.length
        return bucket, self.mixture.mixes[number].pieces(ordinal * count + np.arange(count))

    def _place(self, step: int) -> int:
        """The step of the schedule for a step of the run."""
        before = without_skipped(self.first_step, self.skip_steps)
        return without_skipped(step, self.skip_steps) - before


def without_skipped(step: int, skips: Sequence[Sequence[int]]) -> int:
    """The step of a plan that a step of the run follows, if these ranges are left out."""
    for first, end in skips:
        step += end - first if step >= first else 0
    return step
