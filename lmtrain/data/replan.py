"""Re-planning: a run goes on with another plan, from what the plans before it left.

Pieces of a cell (source x bucket) are used in the order of the cell, so how many were used says
which: the new plan begins each cell there. A cycle that was cut is finished first, with what each
bucket had left in it, so that no length is lost or seen twice.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lmtrain.data.curriculum import race
from lmtrain.data.mix import whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmtrain.data.curriculum import Schedule


class Used(NamedTuple):
    """How many pieces of a cell were drawn, and the fingerprint of all its pieces."""

    pieces: int
    cell: int


@dataclass(frozen=True, kw_only=True)
class Past:
    """A plan that a run followed up to a step, and what had been used by then; JSON can hold it."""

    step: int
    """Steps of the run before the next plan begins."""
    plan: str
    """Hash of the plan."""
    identity: dict[str, Any]
    """What the plan was made of, by key."""
    tokens: int = 0
    """Tokens that the run had seen."""
    used: dict[str, dict[str, Used]] = field(default_factory=dict[str, dict[str, Used]])
    """Of each cell, by source and bucket, by this plan and all before it."""
    rest: dict[str, int] = field(default_factory=dict[str, int])
    """Tokens that each bucket had left in the cycle."""

    @classmethod
    def read(cls, data: dict[str, Any]) -> Past:
        """From JSON."""
        used: Any = {
            source: {bucket: Used(*cell) for bucket, cell in cells.items()}
            for source, cells in data["used"].items()
        }
        return cls(**{**data, "used": used})

    @property
    def digest(self) -> str:
        """A hash over all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def order_names(cells: dict[str, dict[str, int]], past: Sequence[Past]) -> dict[str, str]:
    """By which name the order of each source goes: that under which its pieces were used before.

    A source keeps its order when it is renamed, or when a run with one source without a name goes
    on with several. No two go by one name.

    Args:
        cells: the fingerprint of each cell, by source and bucket.
        past: the plans before.
    """
    used = past[-1].used if past else {}
    names = {name: name for name in cells}
    for old in sorted(used.keys() - cells.keys()):
        for name, buckets in cells.items():
            same = [used[old][b].cell == buckets[b] for b in used[old].keys() & buckets.keys()]
            if name not in used and names[name] == name and same and all(same):
                names[name] = old
                break
    return names


FOLLOW = ("data.max_documents", "curriculum.odds", "curriculum.cycle_steps")
"""Keys that other keys decide too, each also those before it."""

WEIGHTS = "data.sources.*.weight"
"""The weights of all sources, as parts of one."""


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What of a plan's identity differs, key by key; last what may follow from the others."""
    before, now = _with_weights_as_one(before), _with_weights_as_one(now)
    keys = sorted((before.keys() | now.keys()) - {"resume.replan"})
    if not (WEIGHTS in before and WEIGHTS in now):
        keys = [key for key in keys if key != WEIGHTS]  # sources are new, and say so
    keys.sort(key=_follows)
    return [
        f"{key} was {before.get(key)} and is {now.get(key)}"
        for key in keys
        if before.get(key) != now.get(key)
    ]


def _follows(key: str) -> int:
    """How far a key follows from others: which data there are decides all else."""
    name = key.partition(" of ")[0]  # of one of several sources
    if name in FOLLOW:
        return 2 + FOLLOW.index(name)
    return int(not name.startswith("data.source") or name == WEIGHTS)


def _with_weights_as_one(identity: dict[str, Any]) -> dict[str, Any]:
    """Weights that sum to one change together, whichever a user set; so they are told together."""
    first, last = WEIGHTS.split("*")
    keys = [key for key in sorted(identity) if key.startswith(first) and key.endswith(last)]
    if not keys:
        return identity
    told = ", ".join(f"{key[len(first) : -len(last)]} {identity[key]:g}" for key in keys)
    return {**{key: identity[key] for key in identity if key not in keys}, WEIGHTS: told}


def merged(
    before: dict[str, dict[str, Used]], now: dict[str, dict[str, Used]]
) -> dict[str, dict[str, Used]]:
    """What was used of each cell: ``now``, and what earlier plans had that this one has not."""
    sources = before.keys() | now.keys()
    return {name: {**before.get(name, {}), **now.get(name, {})} for name in sorted(sources)}


class Continued:
    """A schedule that first finishes the cycle of the plan before.

    Args:
        rest: steps of each bucket in what is left of that cycle.
        then: the schedule afterwards.
        key: of the order of these steps.
    """

    def __init__(self, rest: Sequence[int], then: Schedule, *key: int | str) -> None:
        self.odds, self.cycle_steps = then.odds, then.cycle_steps
        self.rest, self._then = list(rest), then
        self._buckets = race(rest, then.odds, randomness=then.randomness, key=key)
        self._ordinals = np.empty_like(self._buckets)
        for bucket, count in enumerate(rest):
            self._ordinals[self._buckets == bucket] = np.arange(count)

    def __getitem__(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and how many steps before it used the same bucket."""
        if step < len(self._buckets):
            return int(self._buckets[step]), int(self._ordinals[step])
        bucket, ordinal = self._then[step - len(self._buckets)]
        return bucket, self.rest[bucket] + ordinal

    def cycle_end(self, step: int) -> int:
        """Where the cycle of a step ends; the step itself where one begins."""
        first = len(self._buckets)
        return first if step <= first else first + self._then.cycle_end(step - first)

    def counts(self, steps: int) -> list[int]:
        """How many of the first ``steps`` steps use each bucket."""
        if steps < len(self._buckets):
            return np.bincount(self._buckets[:steps], minlength=len(self.rest)).tolist()
        after = self._then.counts(steps - len(self._buckets))
        return [first + more for first, more in zip(self.rest, after, strict=True)]


def steps_left(schedule: Schedule | Continued, step: int) -> list[int]:
    """Steps of each bucket from ``step`` to the end of its cycle; none where a cycle begins."""
    end = schedule.counts(schedule.cycle_end(step))
    return [after - now for after, now in zip(end, schedule.counts(step), strict=True)]


def finish(
    schedule: Schedule, left: Sequence[int], *, tokens_per_step: int, key: tuple[int | str, ...]
) -> Schedule | Continued:
    """The schedule after what is left of a cycle: tokens of each bucket, as whole steps."""
    exact = np.array(left) / tokens_per_step
    rest = whole(exact, int(sum(left) // tokens_per_step)).tolist()
    return Continued(rest, schedule, *key) if any(rest) else schedule
