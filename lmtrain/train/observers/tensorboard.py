"""Reports as TensorBoard's event files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.tensorboard import SummaryWriter

from lmtrain.train.report import values

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lmtrain.train.report import Report


class Tensorboard:
    """Writes the numbers of every report below ``folder``.

    A continued run hides what was written after the step that it goes on from.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def __call__(self, report: Report) -> None:
        """Write its numbers; lines for a person and other texts are left out."""
        if isinstance(report, str):
            return
        for name, number in _numbers(values(report)):
            if name != "step":
                self._writer.add_scalar(name, number, report.step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def _numbers(found: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers by name; what stands in a table is ``table/name``."""
    for name, value in found.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{key}", number) for key, number in _numbers(value))
        elif isinstance(value, int | float):
            yield name, value
