"""Batches that would spoil the weights: how they are known, and when there are too many.

All processes judge the same sums, and what is remembered stands in the checkpoint: so they decide
alike, and a run that was resumed decides as if it had never stopped.
"""

from __future__ import annotations

from collections import deque
from math import isfinite
from statistics import median
from typing import TYPE_CHECKING

from lmtrain.settings.faults import FaultPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lmtrain.settings.faults import FaultsSection

RECENT = 100
"""Steps in which `FaultsSection.limit` faults end a run."""


class Faults:
    """What a run remembers of its losses and faults.

    Args:
        section: of the configuration.
        memory: from `memory`, of the checkpoint that the run goes on from.
    """

    def __init__(self, section: FaultsSection, memory: Mapping[str, Sequence[float]]) -> None:
        self.section = section
        self._losses = deque(memory.get("losses", ()), maxlen=section.window)
        self._steps = [int(step) for step in memory.get("steps", ())]

    @property
    def memory(self) -> dict[str, list[float]]:
        """The last good losses, and the steps of all faults; JSON can hold it."""
        return {"losses": list(self._losses), "steps": [float(step) for step in self._steps]}

    @property
    def count(self) -> int:
        """Faults since step 0."""
        return len(self._steps)

    def judge(self, loss: float) -> str:
        """What is wrong with a loss in nats, in words; empty if nothing is."""
        if not isfinite(loss):
            return f"the loss is {loss}"
        spike, known = self.section.spike, len(self._losses) == self.section.window
        if spike is None or not known or loss <= spike * (middle := median(self._losses)):
            return ""
        return f"the loss is {loss:.3f}, more than {spike:g} times the median {middle:.3f}"

    def accept(self, loss: float) -> None:
        """Remember the loss of a batch that was learned from."""
        self._losses.append(loss)

    def note(self, step: int, fault: str) -> None:
        """Remember that the batch of ``step`` is faulty.

        Raises:
            ValueError: the policy is to abort, or there were too many.
        """
        self._steps.append(step)
        recent = sum(step - RECENT < each for each in self._steps)
        end = "the newest checkpoint is untouched"
        if self.section.policy is FaultPolicy.abort:
            raise ValueError(
                f"step {step}: {fault}: say faults.policy=skip to go on without this batch, or "
                f"begin anew with a lower optim.lr; {end}"
            )
        if recent >= self.section.limit:
            raise ValueError(
                f"step {step}: {fault}: {recent} faults in {RECENT} steps are too many "
                f"(faults.limit={self.section.limit}): begin anew with a lower optim.lr; {end}"
            )

    def restore(self, memory: Mapping[str, Sequence[float]]) -> None:
        """Forget the losses since a checkpoint; faults stay known."""
        self._losses = deque(memory.get("losses", ()), maxlen=self.section.window)
