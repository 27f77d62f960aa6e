"""The pictures of a sweep: what each choice cost and gained, over training, length and context."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from lmtrain.report.chart import Chart, Series
from lmtrain.report.losses import SPENT, loss_over
from lmtrain.report.measures import higher, kind, length, place, title, trained
from lmtrain.report.seeds import by_condition
from lmtrain.report.theme import SERIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lmtrain.report.points import Point
    from lmtrain.report.seeds import Group


def curves(groups: Sequence[Group], measure: str) -> list[Chart]:
    """Every picture that has numbers, those of one condition after each other."""
    return [
        chart
        for condition, rivals in by_condition(groups).items()
        for chart in _of(rivals, measure, f" ({condition})" if condition else "")
        if not chart.empty
    ]


def front(points: Sequence[tuple[float, float]], *, most_x: bool, most_y: bool) -> list[int]:
    """The numbers of the points that no other beats in one without losing in the other, by x."""

    def beats(ours: tuple[float, float], theirs: tuple[float, float]) -> bool:
        x, y = ((b - a) if most else (a - b) for a, b, most in zip(
            theirs, ours, (most_x, most_y), strict=True))  # fmt: skip
        return x >= 0 and y >= 0 and (x > 0 or y > 0)

    kept = [n for n, point in enumerate(points) if not any(beats(other, point) for other in points)]
    return sorted(kept, key=lambda number: points[number])


def _of(rivals: Sequence[Group], measure: str, condition: str) -> Iterator[Chart]:
    """The pictures of one condition."""
    yield _pareto(rivals, measure, "tokens_per_second", condition)
    at = f"state_bytes@{length(measure)}"
    state = at if any(group.estimate(at) for group in rivals) else "state_bytes"
    yield _pareto(rivals, measure, state, condition)
    yield from (loss_over(rivals, over, condition) for over in SPENT)
    lengths = trained(point for group in rivals for point in group.points)
    mark = max(lengths) if len(lengths) == 1 else 0
    for name in ("answers", "text_loss"):
        yield _along(
            rivals,
            f"{title(name).capitalize()}, by length{condition}",
            ("length", title(name)),
            lambda point, name=name: _by_length(point, name),
            mark=mark,
        )
    yield _along(
        rivals,
        f"Recurrent states by place{condition}",
        ("tokens before and including it", "root mean square"),
        _states,
        mark=mark,
        log=True,
    )
    yield from _within(rivals, "place_loss", "tokens before and including it", condition)
    yield from _within(rivals, "context_loss", "tokens that the model sees", condition)


def _pareto(rivals: Sequence[Group], measure: str, cost: str, condition: str) -> Chart:
    """Means of what was gained over what it took, and the edge of both."""
    found = [
        (group.name, cost_mean.mean, gain.mean)
        for group in rivals
        if (cost_mean := group.estimate(cost)) and (gain := group.estimate(measure))
    ]
    places = [(x, y) for _, x, y in found]
    edge = front(places, most_x=higher(cost), most_y=higher(measure))
    series = [
        Series(
            label="front",
            x=[places[n][0] for n in edge],
            y=[places[n][1] for n in edge],
            front=True,
        ),
        Series(
            label="",
            x=[x for x, _ in places],
            y=[y for _, y in places],
            names=[name for name, _, _ in found],
        ),
    ]
    name = "Throughput" if kind(cost) == "tokens_per_second" else "State"
    heading = f"{name} against {title(measure)}{condition}"
    return Chart(title=heading, x=title(cost), y=kind(measure).replace("_", " "), series=series)


def _along(
    rivals: Sequence[Group],
    heading: str,
    axes: tuple[str, str],
    along: Callable[[Point], Mapping[float, float]],
    *,
    mark: int = 0,
    log: bool = False,
) -> Chart:
    """Means over seeds of numbers by length or place."""
    series: list[Series] = []
    for group in rivals:
        found: dict[float, list[float]] = {}
        for point in group.points:
            for x, y in along(point).items():
                found.setdefault(x, []).append(y)
        xs = sorted(found)
        spread = [min(found[x]) for x in xs], [max(found[x]) for x in xs]
        series.append(
            Series(
                label=group.name,
                x=xs,
                y=[fmean(found[x]) for x in xs],
                band=spread if len(group.points) > 1 else None,
                marks=True,
            )
        )
    farthest = max((x for each in series for x in each.x), default=0)
    return Chart(
        title=heading,
        x=axes[0],
        y=axes[1],
        series=series if any(len(each.x) > 1 for each in series) else [],
        lengths=True,
        mark=mark if 0 < mark < farthest else None,
        log=log,
        ordered=len(series) > SERIES,
    )


def _within(rivals: Sequence[Group], name: str, x: str, condition: str) -> Iterator[Chart]:
    """Losses by place or by context, at the longest length that has them."""
    scored = {
        int(place(measure).partition(":")[0])
        for group in rivals
        for point in group.points
        for measure in point.measures
        if kind(measure) == name
    }
    if scored:
        heading = f"{title(name).capitalize()}, length {max(scored):,}{condition}"
        start = f"{name}@{max(scored)}:"
        yield _along(rivals, heading, (x, "nats"), lambda point: _starting(point, start))


def _starting(point: Point, start: str) -> dict[float, float]:
    """Measures by the end of their names."""
    return {
        end: value
        for name, value in point.measures.items()
        if name.startswith(start) and (end := _end(name.removeprefix(start), start))
    }


def _by_length(point: Point, name: str) -> dict[float, float]:
    return {
        float(at): value
        for measure, value in point.measures.items()
        if kind(measure) == name and (at := length(measure))
    }


def _states(point: Point) -> dict[float, float]:
    """By place, in the longest document that was looked at."""
    scored = [
        score
        for score in point.run.scores
        if score.get("what") == "states" and isinstance(score.get("length"), int)
    ]
    tables = [max(scored, key=lambda score: score["length"])["by_position"]] if scored else []
    return {
        end: float(value)
        for table in tables
        for name, value in (table.items() if isinstance(table, dict) else ())
        if isinstance(value, int | float) and (end := _end(name, "place"))
    }


def _end(name: str, start: str) -> float | None:
    """Tokens up to the end of a place, of ``4-7`` eight, or a context's; None of other names."""
    last = name.rpartition("-")[2]
    return int(last) + (not start.startswith("context")) if last.isdecimal() else None
