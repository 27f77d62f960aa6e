"""Tables of scores hold every number, and fit 80 letters."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from lmtrain.evaluate.positions import place_of
from lmtrain.evaluate.tables import tables

LENGTHS = [1 << digits for digits in range(3, 17)]


def told(found: list[dict[str, Any]]) -> list[str]:
    console = Console(width=80)
    with console.capture() as printed:
        console.print(*tables(found), sep="\n")
    return printed.get().splitlines()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]


def states(length: int) -> dict[str, Any]:
    places = {place_of(n): length + n / 64 for n in range(length.bit_length())}
    blocks = {f"{block}.G": 1.0 + block for block in range(24)}
    return {"what": "states", "length": length, "by_position": places, "by_block": blocks}


def test_many_lengths_and_blocks_fit() -> None:
    lines = told([states(length) for length in LENGTHS])
    assert "…" not in "".join(lines)
    rows = [cells(line) for line in lines]
    heads = [row[1:] for row in rows if row[0] == "position"]
    assert [head for row in heads for head in row] == [str(length) for length in LENGTHS]
    longest = next(row for row in rows if row[0] == "32768-65535")
    assert longest == ["32768-65535", "", "6.55e+04"]
    assert [row[0] for row in rows].count("23.G") == len(heads)


def test_what_is_not_known_and_what_has_one_part_is_left_out() -> None:
    record = {"what": "text", "length": 64, "loss": 2.5, "bits_per_byte": None}
    lines = told([{**record, "by_group": {"all": 0.5}}])
    rows = [cells(line) for line in lines if "│" in line or "┃" in line]
    assert rows == [["length", "loss", "bits per byte"], ["64", "2.500", ""]]
