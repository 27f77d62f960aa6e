"""The table of what was measured, and what could not be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from benchmarks.contenders import OURS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.work import Line

ON_CARD = "Kernels in bf16: median turn, cold caches, host ahead of the card"
ELSEWHERE = "Kernels in Triton's interpreter: only that they run means something, no time does"


def table(lines: Sequence[Line]) -> Table:
    """Case by case, ours first; ``ours is`` says how many times as fast ours is."""
    on_card = any("gpu" in line["machine"] for line in lines if line["what"] == "record")
    made = Table(title=ON_CARD if on_card else ELSEWHERE)
    for heading in ("operation", "documents", "pass", "contender"):
        made.add_column(heading, no_wrap=True)
    for heading in ("ms", "backward", "ours is", "of floor", "host ms"):
        made.add_column(heading, justify="right", no_wrap=True)
    before = None
    for line in lines:
        if line["what"] != "time":
            continue
        case = tuple(line[key] for key in ("operation", "sizes", "documents", "pass"))
        ours = _ours(lines, case)
        if case != before:
            made.add_section()
        first, before = case != before, case
        made.add_row(
            f"{line['operation']}, {line['sizes']}" if first else "",
            line["documents"] if first else "",
            line["pass"] if first else "",
            line["contender"],
            _milliseconds(line["seconds"]),
            _milliseconds(line["stages"][1]) if len(line["stages"]) > 1 else "",
            f"{line['seconds'] / ours:.2f} ×" if ours and line["contender"] != OURS else "",
            f"{line['floor'] / line['seconds']:.0%}" if line["floor"] else "",
            _milliseconds(line["host"]),
        )
    return made


def remarks(lines: Sequence[Line]) -> list[str]:
    """A sentence for everything that was not measured, and for every contender that is wrong."""
    told: dict[str, None] = {}
    for line in lines:
        who = line.get("contender", "everyone")
        where = ", ".join(line[key] for key in ("operation", "sizes") if key in line)
        match line["what"]:
            case "failure" if line["why"].startswith("ModuleNotFoundError"):
                told[f"{who} is not here: {line['why'].partition(': ')[2]}"] = None
            case "failure":
                about = f" {line['documents']}" if "documents" in line else ""
                told[f"{who} fails at {where}{about}: {line['why']}"] = None
            case "skipped":
                told[f"{where} {line['documents']}, {line['pass']} is not measured: "
                     f"{line['why']}"] = None  # fmt: skip
            case "parity" if not line["passed"]:
                errors = ", ".join(f"{error:.1e}" for error in line["errors"])
                told[
                    f"{who} is not timed at {where}: its errors against the reference are {errors}"
                ] = None
            case _:
                pass
    return list(told)


def wrong(lines: Sequence[Line]) -> bool:
    """Whether one of our own kernels failed, or disagrees with the reference."""
    return any(
        line.get("contender") == OURS
        and (line["what"] == "failure" or (line["what"] == "parity" and not line["passed"]))
        for line in lines
    )


def _ours(lines: Sequence[Line], case: tuple[Any, ...]) -> float | None:
    keys = ("operation", "sizes", "documents", "pass")
    found = (
        line["seconds"]
        for line in lines
        if line["what"] == "time"
        and line["contender"] == OURS
        and tuple(line[key] for key in keys) == case
    )
    return next(found, None)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3f}"
