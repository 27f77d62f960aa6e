"""What is measured of points: which way is better, how it is written, what is asked first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lmtrain.report.points import Point

HIGHER = ("answers", "rows", "tokens_per_second")
"""Measures of which more is better; of all others less is."""

JUDGED = (
    *("answers", "rows", "text_loss", "place_loss", "context_loss"),
    *("loss", "bits_per_byte", "train_loss"),
)
"""Measures of what a run learned, what is asked first before the others."""

TITLES = {
    "answers": "right answers",
    "rows": "rows all right",
    "text_loss": "loss on text, nats",
    "place_loss": "loss on text by place, nats",
    "context_loss": "loss with a limited context, nats",
    "states": "RMS of recurrent states",
    "loss": "validation loss, nats",
    "train_loss": "training loss, nats",
    "bits_per_byte": "bits per byte",
    "tokens_per_second": "tokens/s",
    "tokens": "tokens learned",
    "flops": "training FLOPs",
    "hours": "hours of training",
    "parameters": "parameters",
    "flops_to": "FLOPs until the validation loss was",
    "tokens_to": "tokens until the validation loss was",
    "hours_to": "hours until the validation loss was",
    "state_bytes": "state of generation, bytes",
}
"""In words, with the unit."""

COUNTED = ("tokens", "flops", "parameters", "tokens_per_second", "tokens_to", "flops_to")
SIZES = ("state_bytes",)
UNITS = ((1e18, " E"), (1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"))
BINARY = ((2**30, " GiB"), (2**20, " MiB"), (2**10, " KiB"))


def kind(measure: str) -> str:
    """The measure without the place it was taken at: of ``answers@128`` it is ``answers``."""
    return measure.partition("@")[0]


def place(measure: str) -> str:
    """Where it was taken: of ``answers@128`` it is ``128``."""
    return measure.partition("@")[2]


def length(measure: str) -> int | None:
    """The length of documents it was taken at."""
    digits = place(measure)
    return int(digits) if digits.isdecimal() else None


def title(measure: str) -> str:
    """In words, with its unit and its place."""
    words, at = TITLES.get(kind(measure), measure), place(measure)
    if not at:
        return words
    if kind(measure).endswith("_to"):
        return f"{words} {at}"
    number, _, within = at.partition(":")
    unit = {"context_loss": ", context", "place_loss": ", places"}.get(kind(measure), ",")
    return f"{words}, length {number}{f'{unit} {within}' if within else ''}"


def higher(measure: str) -> bool:
    """Whether more of it is better."""
    return kind(measure) in HIGHER


def shown(measure: str, value: float) -> str:
    """A value as a person reads it."""
    if kind(measure) in COUNTED:
        return counted(value)
    return counted(value, BINARY) if kind(measure) in SIZES else number(value)


def counted(value: float, units: Sequence[tuple[float, str]] = UNITS) -> str:
    """Three digits and a unit; what is less than one of the smallest stays as it is."""
    for size, unit in units:
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def number(value: float) -> str:
    """Three digits behind the point, or three that count where numbers are large or small."""
    return f"{value:.3f}" if value == 0 or 0.1 <= abs(value) < 1e3 else f"{value:.3g}"  # noqa: PLR2004


def shown_error(measure: str, error: float) -> str:
    """A standard error: two digits count."""
    plain = kind(measure) not in (*COUNTED, *SIZES)
    return f"{error:.2g}" if plain else shown(measure, error)


def named(points: Iterable[Point]) -> list[str]:
    """Every measure that a point has: what was learned before what it cost, places in order."""
    found = {measure for point in points for measure in point.measures}
    order = {name: n for n, name in enumerate(dict.fromkeys([*JUDGED, *TITLES]))}
    return sorted(
        found, key=lambda name: (order.get(kind(name), len(order)), [*map(_whole, _places(name))])
    )


def asked_first(points: Sequence[Point], claimed: Sequence[str] = ()) -> str | None:
    """The measure that decides when none is named; None where nothing was learned.

    The first that the sweep's own claims are about and that says what was learned; else the first
    of `JUDGED` that is there, at the longest length trained on, or the shortest beyond it.
    """
    found = named(points)
    for measure in claimed:
        if measure in found and kind(measure) in JUDGED:
            return measure
    most = longest(points)
    for name in JUDGED:
        at = [measure for measure in found if kind(measure) == name]
        if at:
            within = [m for m in at if (length(m) or 0) <= most]
            return within[-1] if within else at[0]
    return None


def longest(points: Iterable[Point]) -> int:
    """The longest length that any of the points was trained on; 0 if none is known."""
    return max(trained(points), default=0)


def trained(points: Iterable[Point]) -> set[int]:
    """The longest lengths that points were trained on."""
    found = (point.run.config.get("curriculum.max_length") for point in points)
    return {length for length in found if isinstance(length, int)}


def _places(measure: str) -> list[str]:
    return place(measure).split(":")


def _whole(digits: str) -> float:
    try:
        return float(digits)
    except ValueError:
        return 0.0
