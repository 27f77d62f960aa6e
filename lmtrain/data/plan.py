"""The plan: the global batch of every step, as a pure function of data, curriculum and seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lmtrain.data.bucket import Bucket
from lmtrain.data.curriculum import Schedule, odds
from lmtrain.data.permutation import Permutation
from lmtrain.data.store import Side
from lmtrain.data.views import View, drawn_lengths, view

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lmtrain.data.bucket import Draw
    from lmtrain.data.curriculum_config import CurriculumConfig
    from lmtrain.data.store import Store

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
    schedule: Schedule
    tokens_per_step: int
    seed: int
    skip_steps: Sequence[Sequence[int]]
    identity: dict[str, Any]

    @classmethod
    def build(
        cls,
        store: Store,
        curriculum: CurriculumConfig,
        *,
        seed: int,
        tokens_per_step: int,
        skip_steps: Sequence[Sequence[int]] = (),
    ) -> Self:
        """The plan of a store under a curriculum.

        Raises:
            ValueError: no bucket holds a batch.
        """
        lengths = drawn_lengths(curriculum)
        documents = store.documents(Side.train)
        pieces = view(documents, curriculum)
        buckets = [bucket for bucket in pieces.buckets if bucket.tokens >= tokens_per_step]
        if not buckets:
            raise ValueError(
                f"train.tokens_per_step={tokens_per_step} is more than any length of {lengths} has "
                f"in {len(documents.starts)} documents: lower it, or use more data"
            )
        schedule = make_schedule(
            {bucket.length: bucket.tokens for bucket in buckets},
            curriculum,
            tokens_per_step=tokens_per_step,
            seed=seed,
        )
        return cls(
            view=pieces,
            buckets=buckets,
            schedule=schedule,
            tokens_per_step=tokens_per_step,
            seed=seed,
            skip_steps=skip_steps,
            identity={
                "plan": PLAN_VERSION,
                **store.identity,
                "curriculum.min_length": lengths[0],
                "curriculum.max_length": lengths[-1],
                "curriculum.long_docs": str(curriculum.long_docs),
                "curriculum.odds": schedule.odds,
                "curriculum.randomness": str(schedule.randomness),
                "curriculum.cycle_steps": schedule.cycle_steps,
                "train.tokens_per_step": tokens_per_step,
                "run.seed": seed,
            },
        )

    @property
    def lengths(self) -> list[int]:
        """Lengths of the buckets that are drawn from, shortest first."""
        return [bucket.length for bucket in self.buckets]

    @property
    def hash(self) -> str:
        """Two plans of one hash give the same batches, however the run is split or continued."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def __getitem__(self, step: int) -> Draw:
        """The global batch of a step, in about a millisecond for any step."""
        bucket, index = self._pieces(step)
        return bucket.draw(index)

    def length(self, step: int) -> int:
        """The length of the pieces of a step, without drawing them."""
        bucket, _ = self.schedule[self._without_skipped(step)]
        return self.buckets[bucket].length

    def targets(self, step: int) -> int:
        """Targets in the global batch of a step, padding and cut labels not counted."""
        bucket, index = self._pieces(step)
        return bucket.targets(index)

    def differences(self, identity: dict[str, Any]) -> list[str]:
        """What of another plan's ``identity`` differs from this one, a sentence each."""
        keys = sorted(self.identity.keys() | identity.keys())
        return [
            f"{key} was {identity.get(key)} and is {self.identity.get(key)}: set it back, or start "
            "a new run"
            for key in keys
            if identity.get(key) != self.identity.get(key)
        ]

    def counts(self, steps: int) -> list[int]:
        """How many of the first ``steps`` steps draw from each of ``buckets``."""
        return self.schedule.counts(steps)

    @property
    def warnings(self) -> list[str]:
        """What a user may not expect, a sentence each."""
        return [
            f"length {bucket.length} is left out: its {len(bucket)} {bucket.kind} are less than a "
            f"step of {self.tokens_per_step} tokens"
            for bucket in self.view.buckets
            if bucket not in self.buckets
        ]

    @property
    def steps_per_pass(self) -> int:
        """Steps that see the data once."""
        return sum(bucket.tokens for bucket in self.buckets) // self.tokens_per_step

    def _pieces(self, step: int) -> tuple[Bucket, NDArray[np.int64]]:
        """The bucket of a step, and which of its pieces."""
        number, ordinal = self.schedule[self._without_skipped(step)]
        bucket = self.buckets[number]
        count = self.tokens_per_step // bucket.length
        return bucket, self._shuffled(bucket, ordinal * count + np.arange(count))

    def _without_skipped(self, step: int) -> int:
        for first, end in self.skip_steps:
            step += end - first if step >= first else 0
        return step

    def _shuffled(self, bucket: Bucket, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pieces at these places of the bucket's endless order; each epoch is a permutation."""
        size = len(bucket)
        epochs, places = np.divmod(places, size)
        index = np.empty_like(places)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            order = Permutation(size, self.seed, bucket.kind, bucket.length, epoch)
            index[here] = order(places[here])
        return index


def make_schedule(
    tokens: dict[int, int], curriculum: CurriculumConfig, *, tokens_per_step: int, seed: int
) -> Schedule:
    """The schedule of buckets that hold ``tokens`` (length to tokens)."""
    lengths = drawn_lengths(curriculum)
    every = odds(curriculum, len(lengths))
    steps = sum(tokens.values()) // tokens_per_step
    return Schedule(
        list(tokens.values()),
        cycle_steps=curriculum.cycle_steps or max(1, steps // curriculum.cycles),
        odds=every and [float(every[lengths.index(length)]) for length in tokens],
        randomness=curriculum.randomness,
        seed=seed,
    )
