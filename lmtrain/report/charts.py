"""Which pictures a report has, in their order; those without numbers are left out."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from lmtrain.report.chart import Chart, Series
from lmtrain.report.read import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lmtrain.report.read import Run

GIB, MIB = 2**30, 2**20

NORMS = {
    "gradient_norm": ("Gradient norm by part", "norm"),
    "parameter_norm": ("Parameter norm by part", "norm"),
    "residual_rms": ("Residual stream after each block", "root mean square"),
    "added_rms": ("What each block adds to the residual stream", "root mean square"),
    "state_rms": ("Recurrent states after the last document", "root mean square"),
}
"""Title and axis of what norms are measured of."""

PHASES = {
    "data_wait": "waiting for data",
    "forward_backward": "forward and backward",
    "update": "update",
}
"""Phases of a step, in their order."""


def charts(runs: Sequence[Run]) -> list[Chart]:
    """The pictures of one run, or those that lay several over each other."""
    drawn = _of_one(runs[0]) if len(runs) == 1 else _of_several(runs)
    return [chart for chart in drawn if not chart.empty]


def _of_several(runs: Sequence[Run]) -> Iterator[Chart]:
    yield _over_tokens(runs, "Training loss", "nats", "loss", smooth=True)
    yield Chart(
        title="Validation loss",
        x="tokens",
        y="nats",
        series=[_validation(run, run.name) for run in runs],
    )
    yield from _speed(runs)
    yield from _optimizer(runs)


def _of_one(run: Run) -> Iterator[Chart]:
    yield Chart(
        title="Loss",
        x="tokens",
        y="nats",
        series=[
            Series(label="training", x=run.column("tokens"), y=run.column("loss"), smooth=True),
            _validation(run, "validation"),
        ],
    )
    yield _by_length(run)
    yield _validation_by(run, "Validation loss by length", "val_loss_by_length", ordered=True)
    yield _validation_by(run, "Validation loss by source", "val_loss_by_source")
    yield Chart(
        title="Length of pieces",
        x="step",
        y="tokens",
        series=[Series(label="", x=run.column("step"), y=run.column("length"), dots=True)],
        powers=True,
    )
    yield _sources(run)
    yield from _speed([run])
    yield _phases(run)
    yield from _optimizer([run])
    for name, (title, unit) in NORMS.items():
        by_part = _spread(run.norms, name)
        yield Chart(
            title=title,
            x="step",
            y=unit,
            series=[Series(label=part, x=x, y=y, marks=True) for part, (x, y) in by_part.items()],
            log=True,
            ordered=True,
        )


def _over_tokens(
    runs: Sequence[Run],
    title: str,
    unit: str,
    name: str,
    *,
    scale: float = 1.0,
    smooth: bool = False,
    log: bool = False,
) -> Chart:
    """One number of every step, over the tokens learned; a line for each run."""
    series = [
        Series(
            label=run.name,
            x=run.column("tokens"),
            y=[value * scale for value in run.column(name)],
            smooth=smooth,
        )
        for run in runs
        if run.has(name)
    ]
    return Chart(title=title, x="tokens", y=unit, series=series, log=log)


def _validation(run: Run, label: str) -> Series:
    losses = run.column("val_loss", run.validations)
    return Series(label=label, x=run.tokens_at(run.validations), y=losses, marks=True)


def _by_length(run: Run) -> Chart:
    """The training loss, each length for itself: with a curriculum their mixture moves."""
    found = defaultdict[int, list[Record]](list)
    for record in run.steps:
        if isinstance(record.get("length"), int):
            found[record["length"]].append(record)
    series = [
        Series(
            label=f"{length:,}",
            x=run.column("tokens", records),
            y=run.column("loss", records),
            dots=True,
        )
        for length, records in sorted(found.items())
    ]
    title = "Training loss by length"
    return Chart(title=title, x="tokens", y="nats", series=series, ordered=True)


def _validation_by(run: Run, title: str, name: str, *, ordered: bool = False) -> Chart:
    by_name = _spread(run.validations, name)
    tokens = dict(
        zip((r["step"] for r in run.validations), run.tokens_at(run.validations), strict=True)
    )
    series = [
        Series(label=label, x=[tokens[step] for step in steps], y=losses, marks=True)
        for label, (steps, losses) in by_name.items()
    ]
    return Chart(title=title, x="tokens", y="nats", series=series, ordered=ordered)


def _speed(runs: Sequence[Run]) -> Iterator[Chart]:
    yield _over_tokens(runs, "Speed", "tokens/s", "tokens_per_second", smooth=True)
    yield _over_tokens(runs, "Model FLOPs utilisation", "%", "mfu", scale=100, smooth=True)
    yield _over_tokens(runs, "Peak memory", "GiB", "memory", scale=1 / GIB)
    sent = _over_tokens(runs, "Sent for shared rows, by step", "MiB", "sp_bytes", scale=1 / MIB)
    if any(any(series.y) for series in sent.series):
        yield sent


def _optimizer(runs: Sequence[Run]) -> Iterator[Chart]:
    yield _over_tokens(runs, "Learning rate", "", "lr")
    yield _over_tokens(
        runs, "Norm of the gradient before clipping", "norm", "grad_norm", smooth=True, log=True
    )


def _phases(run: Run) -> Chart:
    """Where the time of a step goes, each phase for itself."""
    series = [
        Series(label=label, x=run.column("step"), y=run.column(name), smooth=True)
        for name, label in PHASES.items()
        if run.has(name)
    ]
    return Chart(title="Phases of a step (host)", x="step", y="seconds", series=series, log=True)


def _sources(run: Run) -> Chart:
    series = [
        Series(label=name, x=steps, y=[100 * share for share in shares])
        for name, (steps, shares) in _spread(run.steps, "sources").items()
    ]
    return Chart(title="Tokens by source so far", x="step", y="%", series=series)


def _spread(records: Iterable[Record], name: str) -> dict[str, tuple[list[float], list[float]]]:
    """A table that many lines have, as steps and values for each of its names."""
    found = defaultdict[str, tuple[list[float], list[float]]](lambda: ([], []))
    for record in records:
        table = record.get(name)
        for key, value in table.items() if isinstance(table, dict) else ():
            if isinstance(value, int | float):
                found[key][0].append(record["step"])
                found[key][1].append(value)
    return dict(found)
