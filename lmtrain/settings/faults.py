"""What to do about batches that would spoil the weights."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf

from lmtrain.settings.checks import positive


class FaultPolicy(StrEnum):
    """What happens to a batch whose loss or gradient is not finite, or whose loss is a spike.

    abort: the run ends, and the newest checkpoint is untouched.
    skip: the batch is left out; parameters and optimizer stay as they are, and its step counts.
    rollback: parameters and optimizer go back to the newest checkpoint of checkpoint.every; the
        batches since then are left out with the faulty one, and the run goes on behind it.
    """

    abort = "abort"
    skip = "skip"
    rollback = "rollback"


@dataclass(kw_only=True)
class FaultsSection:
    """What to do about batches that would spoil the weights."""

    policy: FaultPolicy = FaultPolicy.abort
    """abort, skip the batch, or rollback to the newest checkpoint and go on behind the batch."""
    spike: float | None = None
    """A loss above this many times the median of the last ones is a fault too; null is off."""
    window: int = 64
    """How many losses the median is over; until there are as many, no loss is a spike."""
    limit: int = 8
    """A fault ends the run when it makes this many in the last 100 steps, whatever the policy."""

    def check(self, every: int | None) -> list[str]:
        """Every problem, each a sentence with key, value and remedy.

        Args:
            every: steps between checkpoints.
        """
        problems = positive({"faults.window": self.window, "faults.limit": self.limit})
        if self.spike is not None and not 1 < self.spike < inf:
            problems.append(
                f"faults.spike={self.spike:g} calls usual losses faults, or none: give a factor "
                "above 1, or null"
            )
        if self.policy is FaultPolicy.rollback and every is None:
            problems.append(
                "faults.policy=rollback has no checkpoint to go back to with "
                "checkpoint.every=null: give checkpoint.every a number of steps"
            )
        return problems
