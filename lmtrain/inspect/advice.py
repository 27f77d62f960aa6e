"""What to change so that a run fits, and how long its documents may be."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from lmtrain.inspect.memory import Memory, busiest
from lmtrain.inspect.time import step_time
from lmtrain.parallel.mesh import divisors
from lmtrain.settings.engine import EngineKind, Remat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.inspect.case import Case

ROOM = 0.9
"""Of the memory that a plan may fill: the rest is for fragments, and for errors of the formulas."""
LONGEST = 1 << 26
"""Tokens of a document, beyond which nobody asks."""
LADDER = (Remat.none, Remat.selective, Remat.full)


@dataclass(frozen=True)
class Advice:
    """A change of the configuration that fits."""

    changes: dict[str, object]
    """Overrides; none where it fits as it is."""
    memory: Memory
    seconds: float

    @property
    def overrides(self) -> str:
        """To paste behind the command."""
        return " ".join(f"{key}={value}" for key, value in self.changes.items())


def fits(case: Case) -> bool:
    """Whether a rank has room for it."""
    return busiest(case).total <= ROOM * case.hardware.memory


def advise(case: Case) -> Advice | None:
    """The fewest changes with which it fits; among equally few, the fastest. None if none does."""
    found: list[Advice] = []
    for changes in sorted(_changes(case), key=len):
        if found and len(changes) > len(found[0].changes):
            break
        other = case.but(changes)
        try:
            allowed = other.possible and not other.config.engine.holding(other.world)
            if allowed and fits(other):
                found.append(Advice(changes, busiest(other), step_time(other).total))
        except ValueError:  # a strategy that was forced cannot serve so many ranks
            continue
    return min(found, key=lambda advice: advice.seconds, default=None)


def longest(case: Case) -> int | None:
    """The longest document, a power of two, that fits in a row of its own, all else unchanged."""
    found, length = None, case.config.parallel.sequence * 64
    while length <= LONGEST:
        tokens = length * case.rows * case.config.train.accumulate
        other = case.but({"train.tokens_per_step": tokens}, length=length)
        try:
            if not fits(other):
                break
        except ValueError:
            break
        found, length = length, 2 * length
    return found


def _changes(case: Case) -> Iterator[dict[str, object]]:
    """Every combination of what may change: each key further along its ladder, or as it is."""
    config = case.config
    remats = LADDER[LADDER.index(config.engine.remat) :] if config.engine.remat in LADDER else ()
    sequences = [n for n in divisors(case.world) if n >= config.parallel.sequence]
    accumulates = [config.train.accumulate << i for i in range(8)]
    kinds = [config.engine.kind]
    if case.world > 1 and config.engine.kind is EngineKind.ddp:
        kinds.append(EngineKind.fsdp)
    for remat, sequence, accumulate, kind in product(
        remats or (config.engine.remat,), sequences, accumulates, kinds
    ):
        asked = {
            "engine.remat": (remat, config.engine.remat),
            "parallel.sequence": (sequence, config.parallel.sequence),
            "train.accumulate": (accumulate, config.train.accumulate),
            "engine.kind": (kind, config.engine.kind),
        }
        yield {key: value for key, (value, before) in asked.items() if value != before}
