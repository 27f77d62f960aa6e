"""What is known of the units so far, judged in their order: so workers cannot change an outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lmtrain.data.workers import NO_UNIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmtrain.data.builder import Report
    from lmtrain.data.finished import Finished, UnitFolder
    from lmtrain.data.readers import Problem
    from lmtrain.data.units import Unit


@dataclass
class Malformed:
    """What could not be read, up to a limit."""

    limit: int
    shown: int = 10
    count: int = 0
    places: list[str] = field(default_factory=list[str])
    """The first of them."""

    def add(self, place: str) -> None:
        """Note it.

        Raises:
            ValueError: it is one too many.
        """
        self.count += 1
        if len(self.places) < self.shown:
            self.places.append(place)
        if self.count > self.limit:
            raise ValueError(
                f"more than max_errors={self.limit} parts of the input are malformed, the last is "
                f"{place}: mend the input or raise max_errors"
            )


class Tally:
    """Units that are finished, from the first one on without a gap."""

    def __init__(
        self, units: Sequence[Unit], folder: UnitFolder, max_errors: int, max_documents: int | None
    ) -> None:
        self.malformed = Malformed(max_errors)
        self.taken: list[tuple[Unit, int | None]] = []
        """Units of the store, and of each how many documents, blank ones included; None is all."""
        self._units = units
        self._folder = folder
        self._left = max_documents
        self._lines: dict[str, int] = {}
        self._done: dict[int, Finished] = {}
        self._failed: dict[int, Report] = {}

    def resume(self) -> list[Unit]:
        """The units that are needed and not finished yet."""
        todo: list[Unit] = []
        for unit in self._units:
            if done := self._folder.finished(unit.number):
                self._done[unit.number] = done
            else:
                todo.append(unit)
        self._advance()
        return [] if self.complete else todo

    def note(self, report: Report) -> bool:
        """Take a report; whether there are enough documents now.

        Raises:
            ValueError: a unit cannot be read, or there are too many problems.
        """
        if report.unit == NO_UNIT:
            raise ValueError(report.error)
        if report.error or report.problems:
            self._failed[report.unit] = report
        if report.done:
            done = self._folder.finished(report.unit, trusted=True)
            assert done is not None
            self._done[report.unit] = done
        self._advance()
        return self.complete

    @property
    def complete(self) -> bool:
        """Whether there is all that the store needs."""
        return self._left == 0 or len(self.taken) == len(self._units)

    def _advance(self) -> None:
        while not self.complete:
            unit = self._units[len(self.taken)]
            if failed := self._failed.get(unit.number):
                self._fail(unit, failed)
            if unit.number not in self._done:
                return
            self._take(unit, self._done.pop(unit.number))

    def _take(self, unit: Unit, done: Finished) -> None:
        documents = None
        if self._left is not None and done.documents >= self._left:
            filled = self._folder.read(unit.number).lengths > 0
            documents = int(filled.nonzero()[0][self._left - 1]) + 1
        for before, problem in done.problems:
            if documents is None or before < documents:
                self.malformed.add(self._place(unit, problem))
        if self._left is not None:
            self._left -= min(self._left, done.documents)
        self._lines[unit.files[0]] = self._lines.get(unit.files[0], 0) + done.lines
        self.taken.append((unit, documents))

    def _fail(self, unit: Unit, report: Report) -> None:
        for problem in report.problems:
            self.malformed.add(self._place(unit, problem))
        raise ValueError(report.error)

    def _place(self, unit: Unit, problem: Problem) -> str:
        number = problem.row
        if problem.line is not None:
            number = self._lines.get(unit.files[0], 0) + problem.line
        place = problem.file if number is None else f"{problem.file}:{number}"
        return f"{place}: {problem.reason}"
