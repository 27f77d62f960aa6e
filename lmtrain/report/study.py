"""A sweep with everything that a report says of it, and the files it is written to."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmtrain.report import heat
from lmtrain.report.chart import Chart
from lmtrain.report.curves import curves
from lmtrain.report.findings import Finding, judge, number_of_runs
from lmtrain.report.measures import asked_first, named
from lmtrain.report.points import Point, State, Sweep, read_sweep
from lmtrain.report.seeds import groups
from lmtrain.report.svg import save
from lmtrain.report.verdict import Verdict, verdicts
from lmtrain.settings.findings import Claim

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lmtrain.settings.report import ReportConfig


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is said of one sweep. Means and pictures are of runs that ended well."""

    number: int
    """Among the sweeps of a report."""
    sweep: Sweep
    findings: list[Finding]
    verdicts: list[Verdict]
    heat: heat.Heat | None
    charts: list[Chart]

    def state(self) -> str:
        """How its points ended."""
        points = self.sweep.points
        if not points:
            return f"{self.sweep.folder} holds no run yet."
        ended = Counter(point.state for point in points)
        told = ", ".join(f"{ended[state]} {state}" for state in State if ended[state])
        left_out = " Only finished ones are in means and pictures." if len(ended) > 1 else ""
        experiment = f" Experiment {self.sweep.experiment}." if self.sweep.experiment else ""
        return (
            f"{number_of_runs(len(points))} in {self.sweep.folder}: {told}.{left_out}{experiment}"
        )

    def summary(self) -> Iterator[str]:
        """Lines for a person."""
        yield f"{self.sweep.name}: {self.state()}"
        for finding in self.findings:
            word = {True: "holds", False: "does not hold", None: "missing"}[finding.holds]
            yield f"  {word:<13}  {finding.claim.says}: {finding.text}"
        for verdict in self.verdicts:
            yield f"  {'best':<13}  {verdict.headline()}"
            if left_out := verdict.left_out():
                yield f"  {'':<13}  {left_out}"
        for point in self.sweep.points:
            if point.error:
                yield f"  {'failed':<13}  {point.name}: {point.error}"


def study(folder: Path, config: ReportConfig, number: int = 0) -> Study:
    """Everything about the sweep in a folder.

    Raises:
        ValueError: there is no such folder, or a key or measure that it does not have.
    """
    return study_of(read_sweep(folder, [config.measure] if config.measure else []), config, number)


def study_of(sweep: Sweep, config: ReportConfig, number: int = 0) -> Study:
    """The same of a sweep that was read."""
    points = sweep.points
    claims = _claims(points)
    measure = config.measure or asked_first(points, [claim.measure for claim in claims])
    if config.measure and points and config.measure not in named(points):
        known = ", ".join(named(points)) or "none"
        raise ValueError(
            f"measure={config.measure} is of no run in {sweep.folder}: use one of {known}"
        )
    ended = [point for point in points if point.finished]
    rivals = groups(ended)
    return Study(
        number=number,
        sweep=sweep,
        findings=judge(points, claims),
        verdicts=verdicts(rivals, measure) if measure else [],
        heat=heat.heat(sweep, ended, measure, config.rows, config.columns) if measure else None,
        charts=curves(rivals, measure) if measure else [],
    )


def write_csv(studies: Sequence[Study], path: Path) -> None:
    """One row for each point: its sweep, folder, state, keys and measures."""
    points = [(each.sweep.name, point) for each in studies for point in each.sweep.points]
    keys = dict.fromkeys(key for _, point in points for key in point.keys)
    measures = named(point for _, point in points)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sweep", "run", "state", *keys, *measures])
        for sweep, point in points:
            told = [sweep, os.path.relpath(point.run.folder, path.parent), point.state]
            rows.writerow(
                [
                    *told,
                    *(point.keys.get(key, "") for key in keys),
                    *(point.measures.get(name, "") for name in measures),
                ]
            )


def write_pictures(studies: Sequence[Study], folder: Path) -> None:
    """Every picture as a PNG, by sweep and title."""
    folder.mkdir(exist_ok=True)
    named_so = Counter(each.sweep.name for each in studies)
    for each in studies:
        name = each.sweep.name
        if named_so[name] > 1:
            name = f"{name} {each.number + 1}"
        if each.heat:
            heat.save(each.heat, folder / _file(name, each.heat.title))
        for chart in each.charts:
            save(chart, folder / _file(name, chart.title))


def _file(sweep: str, title: str) -> str:
    """A name of a file that says what is in it."""
    return re.sub(r"[^\w.]+", "_", f"{sweep} {title}")[:120] + ".png"


def _claims(points: Sequence[Point]) -> list[Claim]:
    """What the sweep's experiment claims, as its runs recorded it; damaged claims are left out."""
    written = next((found for p in points if (found := p.run.config.get("findings"))), [])
    return [claim for record in written if (claim := _claim(record))]


def _claim(record: Any) -> Claim | None:
    try:
        claim = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Claim), record))
    except (OmegaConfBaseException, TypeError, ValueError):
        return None
    return claim if isinstance(claim, Claim) and not claim.check("findings") else None
