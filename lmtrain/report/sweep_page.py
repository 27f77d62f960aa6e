"""The report of sweeps as one HTML page: findings first, then a section for each."""

from __future__ import annotations

import shlex
from html import escape
from typing import TYPE_CHECKING

from lmtrain.report import heat
from lmtrain.report.facts import command
from lmtrain.report.html import document, figures, preformatted, table
from lmtrain.report.measures import kind, named, shown
from lmtrain.report.theme import SWEEP_CSS
from lmtrain.report.verdict import mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmtrain.report.findings import Finding
    from lmtrain.report.points import Point
    from lmtrain.report.study import Study
    from lmtrain.report.verdict import Verdict

SCRIPT = """
for (const table of document.querySelectorAll("table.numbers"))
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (a, b) => a !== "" && b !== "" && !isNaN(a) && !isNaN(b)
        ? a - b : a.localeCompare(b, undefined, {numeric: true});
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) =>
        (value(a) === "") - (value(b) === "") || (up ? 1 : -1) * compare(value(a), value(b))));
    });
  }
"""
"""Sorts a table by the column whose head is clicked; without it the page lacks nothing else."""

HOLDS = {True: ("yes", "✓ holds"), False: ("no", "✗ does not hold"), None: ("soft", "? missing")}
"""Class and word of a finding."""

NOT_SHOWN = ("place_loss",)
"""Measures that are drawn and in the CSV, and too many for a table."""


def sweep_page(studies: Sequence[Study]) -> str:
    """The page of one sweep or several."""
    several = len(studies) > 1
    name = f"{len(studies)} sweeps" if several else studies[0].sweep.name
    parts = [_overview(studies)] if several else []
    for study in studies:
        heading = f"<h2>{escape(study.sweep.name)}</h2>" if several else ""
        parts.append(_section(study, heading))
    return document(name, parts, style=SWEEP_CSS, script=SCRIPT)


def _overview(studies: Sequence[Study]) -> str:
    """Links, and the findings of all."""
    links = "".join(
        f'<a href="#{_anchor(study)}">{escape(study.sweep.name)}</a>' for study in studies
    )
    rows = "".join(
        _finding(finding, study.sweep.name) for study in studies for finding in study.findings
    )
    found = _findings_table(rows, "sweep") if rows else ""
    return f"<nav>{links}</nav>{found}"


def _section(study: Study, heading: str) -> str:
    """All about one sweep."""
    sweep = study.sweep
    parts = [
        f'<section id="{_anchor(study)}">{heading}',
        f"<p>{escape(study.state())}</p>",
    ]
    if sweep.overrides:
        parts.append(preformatted(shlex.join(["lmtrain", "train", "-m", *sweep.overrides])))
    if study.findings:
        rows = "".join(_finding(finding) for finding in study.findings)
        parts.append(f"<h3>Findings</h3>{_findings_table(rows)}")
    if study.heat:
        parts += ["<h3>Map</h3>", heat.html(study.heat)]
    if study.verdicts:
        parts += ["<h3>Best</h3>", *map(_verdict, study.verdicts)]
    if drawn := figures(study.charts):
        parts.append(f"<h3>Curves</h3>{drawn}")
    if sweep.points:
        parts.append(f"<h3>Points</h3>{_points(sweep.points)}")
    if failed := [point for point in sweep.points if point.error]:
        rows = [(point.name, point.error or "") for point in failed]
        parts.append(f"<h3>Failed</h3>{table(rows)}")
    notes = [(point.name, note) for point in sweep.points for note in point.run.notes]
    if notes:
        parts.append(f"<h3>Notes</h3>{table(notes)}")
    return "\n".join([*parts, "</section>"])


def _anchor(study: Study) -> str:
    return f"sweep-{study.number}"


def _findings_table(rows: str, *first: str) -> str:
    head = "".join(f"<th>{name}</th>" for name in (*first, "claim", "", "measured"))
    return f'<table class="findings"><tr>{head}</tr>{rows}</table>'


def _finding(finding: Finding, *first: str) -> str:
    colour, word = HOLDS[finding.holds]
    before = "".join(f'<td class="mark">{escape(cell)}</td>' for cell in first)
    return (
        f"<tr>{before}<td>{escape(finding.claim.says)}</td>"
        f'<td class="mark {colour}">{word}</td><td>{escape(finding.text)}</td></tr>'
    )


def _verdict(verdict: Verdict) -> str:
    """The best choice, the others beside it, and its command."""
    measure = verdict.measure
    rows = [
        (
            group.name,
            mean(group, measure),
            f"{comparison.difference:+.3g}",
            "{:+.3g} to {:+.3g}".format(*comparison.interval) if comparison.interval else "–",
            f"{comparison.p:.2g}" if comparison.p is not None else "–",
            str(comparison.count or "–"),
        )
        for group, comparison in verdict.rivals
    ]
    head = ("other", measure, "best minus it", "95 % interval", "p, exact", "pairs of a seed")
    compared = table(rows, head) if rows else ""
    return (
        f"<p><b>{escape(verdict.headline())}</b></p>{compared}"
        f'<p class="soft">{escape(verdict.caution())}</p>{preformatted(command(verdict.point.run))}'
    )


def _points(points: Sequence[Point]) -> str:
    """A row for each point, its keys before its measures."""
    keys = list(points[0].keys)
    measures = [name for name in named(points) if kind(name) not in NOT_SHOWN]
    head = "".join(f"<th>{escape(name)}</th>" for name in ("state", *keys))
    head += "".join(f'<th class="number">{escape(name)}</th>' for name in measures)
    body = "".join(_row(point, keys, measures) for point in points)
    return (
        '<div class="wide"><table class="numbers">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(point: Point, keys: Sequence[str], measures: Sequence[str]) -> str:
    told = (point.state, *(point.keys[key] for key in keys))
    said = "".join(f"<td>{escape(cell)}</td>" for cell in told)
    numbers = "".join(
        f'<td class="number" data-value="{point.measures[name]!r}">'
        f"{escape(shown(name, point.measures[name]))}</td>"
        if name in point.measures
        else '<td class="number" data-value=""></td>'
        for name in measures
    )
    return f"<tr>{said}{numbers}</tr>"
