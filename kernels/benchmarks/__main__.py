"""``python -m benchmarks``: check, time, and compare kernels on the card of this machine.

What has to be compiled is compiled on all cores. Then every contender proves itself in a process of
its own, so that what crashes takes nobody with it. Last, one process an operation times those that
passed. Results are written as they come.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from benchmarks.autotuning import shorten
from benchmarks.report import remarks, table, wrong
from benchmarks.timing import Ceilings
from benchmarks.work import (
    Line,
    Work,
    measured_ceilings,
    names_of,
    operations_of,
    screen,
    timed,
    warm,
)
from lmtrain.machine import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PROCESSES = min(12, os.cpu_count() or 1)
"""At once: each may hold several GiB of the card."""
SHARES = {"fla": 3, "mamba_ssm": 3, "flash_qla": 3}
"""Processes that compile for one contender, for one operation."""
WARMING, SCREENING = 0.35, 0.6
"""Parts of the time after which they end."""
LEAST_SECONDS = 15
"""Kept for each operation that is still to be timed."""
ENVIRONMENT = {
    "FLA_FLASH_QLA": "0",  # fla would call flash_qla, which is measured beside it
    "PYTHONWARNINGS": "ignore",
}
ALONE = {"FLA_CACHE_RESULTS": "0"}
"""While screening: what fla finds fastest on a busy card must not be kept."""


def main(words: Sequence[str] | None = None) -> int:
    """Exit code 1 if one of our kernels fails or is wrong."""
    args = _parse(words)
    work = Work(torch.device(args.device), args.smoke, args.repeats)
    if args.device == "cuda":
        shorten()
    if args.warm:
        return _print(warm(work, *args.warm[:2], *map(int, args.warm[2:])))
    if args.screen:
        return _print(screen(work, *args.screen))
    if args.ceilings:
        return _print(iter([{"what": "ceilings", **measured_ceilings(work.device)._asdict()}]))
    if args.time:
        limits = Ceilings(*args.limits) if args.limits else None
        return _print(timed(work, args.time, args.passed, limits, args.deadline))
    lines: list[Line] = []
    if args.out:
        Path(args.out).unlink(missing_ok=True)

    def tell(line: Line) -> None:
        lines.append(line)
        if args.out:
            with Path(args.out).open("a") as file:
                file.write(json.dumps(line) + "\n")

    typed = shlex.join(sys.orig_argv[1:] if words is None else words)
    tell({"what": "record", "command": f"python {typed}", "machine": machine(args.device)})
    measure = _in_processes if args.device == "cuda" or args.apart else _here
    measure(work, args, tell)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table(lines))
    for remark in remarks(lines):
        console.print(remark, highlight=False, soft_wrap=True)
    return int(wrong(lines))


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    there = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cuda", "cpu"], default=there)
    parser.add_argument("--smoke", action="store_true", help="one tiny case of each; no times")
    parser.add_argument("--operations", nargs="*", default=operations_of(), metavar="NAME")
    parser.add_argument("--contenders", nargs="*", default=[], metavar="NAME", help="beside ours")
    parser.add_argument("--seconds", type=float, default=240, help="about so long, in all")
    parser.add_argument("--repeats", type=int, default=20, help="timed turns")
    parser.add_argument("--out", help="a file of JSON lines")
    parser.add_argument("--apart", action="store_true", help="on a CPU too, use many processes")
    parser.add_argument("--ceilings", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--warm", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--screen", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--time", help=argparse.SUPPRESS)
    parser.add_argument("--passed", nargs="*", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--limits", nargs=2, type=float, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, default=float("inf"), help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if unknown := sorted(set(args.operations) - set(operations_of())):
        parser.error(f"--operations {' '.join(unknown)}: choose of {' '.join(operations_of())}")
    if args.out and not Path(args.out).absolute().parent.is_dir():
        parser.error(f"--out {args.out}: there is no such folder, make it first")
    if args.device == "cpu" and not args.smoke:
        parser.error("--device cpu runs kernels in Triton's interpreter: add --smoke")
    return args


def _print(lines: Iterator[Line]) -> int:
    for line in lines:
        print(json.dumps(line), flush=True)
    return 0


def _here(work: Work, args: argparse.Namespace, tell: Callable[[Line], None]) -> None:
    """All in this process."""
    for operation in args.operations:
        found: list[Line] = []
        for name in names_of(work, operation, args.contenders):
            found += screen(work, operation, name)
        found += timed(work, operation, _passed(found), None, float("inf"))
        for line in found:
            tell(line)


def _in_processes(work: Work, args: argparse.Namespace, tell: Callable[[Line], None]) -> None:
    """Compile side by side, screen side by side, then time one operation after the other."""
    begun, pairs = (
        time(),
        [(o, n) for o in args.operations for n in names_of(work, o, args.contenders)],
    )
    shares = [
        ["--warm", *pair, str(number), str(SHARES[pair[1]])]
        for pair in pairs
        for number in range(SHARES.get(pair[1], 0))
    ]
    where = ["--device", args.device, *(["--smoke"] if args.smoke else [])]
    _children([where + words for words in shares], begun + WARMING * args.seconds)
    screens = [[*where, "--screen", *pair] for pair in pairs]
    found = dict(zip(pairs, _children(screens, begun + SCREENING * args.seconds), strict=True))
    for (operation, name), lines in found.items():
        for line in lines:
            tell({"operation": operation, "contender": name, **line})
    limits: list[str] = []
    for line in [] if args.smoke else _child([*where, "--ceilings"], time() + 60, {}):
        tell(line)
        if line["what"] == "ceilings":
            limits = ["--limits", str(line["bytes_per_second"]), str(line["flops_per_second"])]
    left = len(args.operations)
    for operation in args.operations:
        left -= 1
        passed = [n for o, n in pairs if o == operation and n in _passed(found[o, n])]
        until = max(time() + LEAST_SECONDS, begun + args.seconds - left * LEAST_SECONDS)
        words = [*where, "--time", operation, "--repeats", str(args.repeats), *limits]
        words += ["--deadline", str(until - 5), "--passed", *passed]
        for line in _child(words, until, {}):
            tell({"operation": operation, **line})


def _children(words: list[list[str]], until: float) -> list[list[Line]]:
    """What several processes print, so many of them at once as the card may hold."""
    with ThreadPoolExecutor(PROCESSES) as pool:
        started = [pool.submit(_child, each, until, ALONE) for each in words]
        return [each.result() for each in started]


def _passed(lines: Sequence[Line]) -> list[str]:
    """Contenders that agree with the reference at all sizes that they can do."""
    told = [line for line in lines if line["what"] == "parity"]
    names = dict.fromkeys(line["contender"] for line in told)
    wrong = {line["contender"] for line in told if not line["passed"]}
    return [name for name in names if name not in wrong]


def _child(words: list[str], until: float, environment: dict[str, str]) -> list[Line]:
    """What ``python -m benchmarks`` with these words prints; how it ended, if badly."""
    command, seconds = [sys.executable, "-m", "benchmarks", *words], until - time()
    if seconds < 1:
        return [{"what": "failure", "why": "no time is left"}]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **ENVIRONMENT, **environment},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        out, problem = done.stdout, None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [""])[-1]
            problem = f"its process ended with {done.returncode}: {last[:300]}"
    except subprocess.TimeoutExpired as late:
        out = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        problem = f"not done after {seconds:.0f} s"
    lines = [json.loads(line) for line in out.splitlines() if line.startswith('{"')]
    return lines if problem is None else [*lines, {"what": "failure", "why": problem}]


if __name__ == "__main__":
    sys.exit(main())
