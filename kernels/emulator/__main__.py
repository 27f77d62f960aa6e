"""``python -m emulator``: what each kernel asks of a card, counted on this host.

The cases of the benchmarks, cut to few tokens and heads, run as machine code of a card that need
not be here. These are counts, not times: no latency, no cache and no clock is followed. They tell
which unit a kernel leans on and which line of its source does, not how fast it is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.cases import CASES
from benchmarks.contenders import OURS, contenders
from benchmarks.pointwise import RmsNorm, ShortConv, SwiGlu
from benchmarks.recurrences import GatedDelta, Ssd
from benchmarks.work import operations_of
from emulator.counters import SECTOR, UNITS, Meter, Profile
from emulator.launch import CARDS, emulated
from emulator.memory import EmulationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.case import Case

TOKENS = 128
CHANNELS, HEADS = 256, 2
"""The most that are left of a case."""
LINES = 10


def main(words: Sequence[str] | None = None) -> int:
    """Exit code 1 if a kernel races or leaves its tensors."""
    args = _parse(words)
    console = Console(width=None if sys.stdout.isatty() else 180)
    written: list[str] = []
    failed = False
    for case in cut_cases(args.operations, args.tokens):
        profile = Profile()
        try:
            measure(case, args.card, profile)
        except EmulationError as error:
            failed = True
            console.print(f"{case} stopped: {error}", highlight=False)
        console.print(table(case, args.card, profile.launches))
        for meter in profile.launches:
            if args.lines:
                console.print(lines(case, meter))
            written.append(json.dumps({"case": str(case), "card": args.card, **record(meter)}))
    if args.out:
        Path(args.out).write_text("".join(f"{line}\n" for line in written))
    console.print("These are counts, not times: no latency, no cache and no clock is followed.")
    return int(failed)


def cut_cases(operations: Sequence[str], tokens: int) -> Iterator[Case]:
    """One of each operation's sizes, with few tokens, heads and channels."""
    seen = set[str]()
    for case in CASES:
        small = _cut(case, tokens)
        if case.operation in operations and str(small) not in seen:
            seen.add(str(small))
            yield small


def _cut(case: Case, tokens: int) -> Case:
    """Heads for each group of keys, and widths, stay where there is room."""
    small: Any = replace(case, lengths=(tokens,))
    if isinstance(case, GatedDelta | Ssd):
        return replace(small, groups=1, heads=min(HEADS, case.heads // case.groups))
    if isinstance(case, ShortConv):
        return replace(small, channels=min(CHANNELS, case.channels))
    if isinstance(case, RmsNorm | SwiGlu):
        return small
    return replace(small, heads=min(HEADS, small.heads))


def measure(case: Case, card: int, profile: Profile) -> None:
    """Every launch of a forward and a backward pass.

    Raises:
        EmulationError: a race, or an access out of bounds or off its alignment.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = [x.requires_grad_() for x in case.draw(generator)]
    run = contenders(case)[OURS](case, case.layout(torch.device("cpu")))
    with emulated(card, profile):
        out = run(*inputs)
        torch.autograd.grad(out, inputs, torch.randn(out.shape, generator=generator).to(out))


def table(case: Case, card: int, meters: list[Meter]) -> Table:
    """A row for each launch; all but programs and warps per token."""
    found = Table(title=f"{case} on sm_{card}, per token")
    found.add_column("kernel")
    columns = [
        "programs",
        "warps",
        *UNITS,
        "wavefronts",
        "conflicts",
        "moved B",
        "asked B",
        "products",
    ]
    for column in columns:
        found.add_column(column, justify="right")
    for meter in meters:
        counts = record(meter)
        cells = [f"{counts[column] / case.tokens:,.1f}" for column in columns[2:]]
        found.add_row(meter.kernel, str(meter.programs), str(meter.warps), *cells)
    return found


def record(meter: Meter) -> dict[str, Any]:
    """The counts of a launch: instructions of warps, turns of shared memory, bytes, products."""
    both = {
        what: sum(meter.total(f"{kind} {what}") for kind in ("load", "store"))
        for what in ("sectors", "bytes")
    }
    return {
        **{"kernel": meter.kernel, "programs": meter.programs, "warps": meter.warps},
        **{what: meter.total(what) for what in (*UNITS, "wavefronts", "conflicts")},
        **{"moved B": SECTOR * both["sectors"], "asked B": both["bytes"]},
        "products": meter.total("mma") + meter.total("wgmma"),
    }


def lines(case: Case, meter: Meter) -> Table:
    """The lines of the source with the most instructions and turns of shared memory."""
    issued, turns, conflicts = Counter[str](), Counter[str](), Counter[str]()
    for (where, what), count in meter.counts.items():
        if what in UNITS:
            issued[where] += count
        elif what == "wavefronts":
            turns[where] += count
        elif what == "conflicts":
            conflicts[where] += count
    found = Table(title=f"{meter.kernel}: lines that cost most, per token")
    found.add_column("line, and who calls it")
    for column in ("instructions", "wavefronts", "conflicts"):
        found.add_column(column, justify="right")
    for where, _ in (issued + turns).most_common(LINES):
        cells = [f"{x[where] / case.tokens:,.1f}" for x in (issued, turns, conflicts)]
        found.add_row(" < ".join(where.split()), *cells)
    return found


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m emulator", description=__doc__)
    parser.add_argument(
        "--card", type=int, choices=CARDS, default=90, help="compute capability x 10"
    )
    parser.add_argument("--operations", nargs="*", default=operations_of(), metavar="NAME")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of the one document")
    parser.add_argument("--lines", action="store_true", help="lines of the source that cost most")
    parser.add_argument("--out", help="a file of JSON lines: counts of whole launches")
    args = parser.parse_args(words)
    if unknown := sorted(set(args.operations) - set(operations_of())):
        parser.error(f"--operations {' '.join(unknown)}: choose of {' '.join(operations_of())}")
    if args.tokens < 1:
        parser.error(f"--tokens {args.tokens}: take 1 or more")
    if args.out and not Path(args.out).absolute().parent.is_dir():
        parser.error(f"--out {args.out}: there is no such folder, make it first")
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        parser.error("TRITON_INTERPRET is set, so nothing is compiled: unset it")
    return args


if __name__ == "__main__":
    sys.exit(main())
