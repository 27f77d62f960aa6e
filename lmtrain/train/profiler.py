"""A torch profiler over a few steps of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from torch.profiler import ProfilerActivity, profile

from lmtrain.train.device import wait

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 30
"""Operations in the table."""


class Profiler:
    """Traces the steps of a window; before and after it, it is a comparison of two integers.

    For each process it leaves ``step_00000100_rank_0.json.gz``, for ``chrome://tracing`` and
    Perfetto, and a table of the operations that took longest, ``….txt``.

    Args:
        steps: which to trace, counted from 1.
        folder: made when it is needed.
        rank: of this process.
        device: where the model computes.
    """

    def __init__(self, steps: range, folder: Path, *, rank: int, device: torch.device) -> None:
        self._steps, self._folder, self._rank, self._device = steps, folder, rank, device
        self._profile: profile | None = None

    def __call__(self, step: int) -> None:
        """``step`` is about to be computed."""
        if self._profile is None and step in self._steps:
            self._start()
        elif self._profile is not None and step not in self._steps:
            self._finish(self._profile)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        """Finish a window that the end of the run cut; what an error cut is not written."""
        if self._profile is not None and error is None:
            self._finish(self._profile)
        elif self._profile is not None:
            self._profile.stop()

    def _start(self) -> None:
        cuda = [ProfilerActivity.CUDA] if self._device.type == "cuda" else []
        self._profile = profile(activities=[ProfilerActivity.CPU, *cuda], acc_events=True)
        self._profile.start()

    def _finish(self, profile: profile) -> None:
        self._profile = None
        wait(self._device)
        profile.stop()
        self._folder.mkdir(exist_ok=True)
        name = f"step_{self._steps.start:08d}_rank_{self._rank}"
        profile.export_chrome_trace(str(self._folder / f"{name}.json.gz"))
        kind = "cuda" if self._device.type == "cuda" else "cpu"
        table = profile.key_averages().table(sort_by=f"self_{kind}_time_total", row_limit=ROWS)
        (self._folder / f"{name}.txt").write_text(table)
