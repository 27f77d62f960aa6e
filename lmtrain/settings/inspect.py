"""The machines that a run is planned for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lmtrain.parallel.hardware import CARDS
from lmtrain.settings.checks import above_zero, positive

MEASURED = ("auto", "cpu")
"""Hardware whose speed is measured on the spot: this machine's GPU is looked up instead."""


@dataclass(kw_only=True)
class HardwareKeys:
    """Keys of `lmtrain inspect` beside those of the run."""

    hardware: str = "auto"
    """h100, h200, a100, b200: cards by their data sheets; cpu: this machine, measured now; a file
    of `lmtrain bench what=links`; auto: the GPU that is here, else cpu."""
    nodes: int | None = None
    """Machines, each full of cards; world says the same in processes."""
    world: int | None = None
    """Processes of the run, one a card; null is launch.nproc, or those that share a row."""
    memory: float | None = None
    """GiB that a process may take; null is the card's, or an equal part of this machine's."""
    scale: str | None = None
    """Numbers of processes to predict, like 1..1024: weak and strong scaling, as a plot."""
    out: str = "scaling.png"
    """Where the plot of scale goes."""

    def check_hardware(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        found = positive({"nodes": self.nodes, "world": self.world})
        if self.hardware not in (*MEASURED, *CARDS) and not Path(self.hardware).is_file():
            names = ", ".join((*MEASURED, *CARDS))
            found.append(
                f"hardware={self.hardware} is neither a file nor one of {names}: measure one with "
                "`lmtrain bench what=links out=FILE`"
            )
        if self.nodes is not None and self.world is not None:
            found.append(
                f"nodes={self.nodes} and world={self.world} say the same: leave one of them out"
            )
        found += above_zero({"memory": self.memory})
        if self.scale is not None:
            found += self._scale(self.scale)
        return found

    @property
    def worlds(self) -> list[int]:
        """The numbers of processes to foretell: powers of two."""
        first, last = (int(number) for number in (self.scale or "1..1").split(".."))
        return [first << i for i in range((last // first).bit_length())]

    def _scale(self, scale: str) -> list[str]:
        match = re.fullmatch(r"(\d+)\.\.(\d+)", scale)
        if match is None or not 0 < int(match[1]) <= int(match[2]):
            return [f"scale={scale} is no range of processes: say scale=1..1024"]
        if not Path(self.out).absolute().parent.is_dir():
            return [f"out={self.out} is in a folder that does not exist: make it first"]
        return []
