"""``python -m benchmarks.tune``: try launch parameters on the card of this machine.

Candidates are compiled, and run once, in processes side by side; what crashes there is never tried
here. Kernel after kernel the fastest is kept, measured by the time of a whole training step of the
operation. A result is written only if it still agrees with the reference and still wins against the
shipped parameters in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from importlib.resources import files
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, NamedTuple

import torch

from benchmarks import parity
from benchmarks.contenders import OURS, contenders
from benchmarks.launches import Asked, Launch, Launches, candidates, replaced, write
from benchmarks.timing import Clock, Stages, take_turns, training
from benchmarks.work import Work, operations_of
from lmtrain_kernels.tuned import capability

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.case import Case

REPEATS = 9
LEAST_GAIN = 0.01
"""Part of the time of a step that a candidate must win."""


class Trial(NamedTuple):
    """A kernel of a case, and a launch to try."""

    case: int
    asked: Asked
    launch: Launch


class Tuning:
    """The cases of one operation, and the launches that they ask for."""

    def __init__(self, work: Work, operation: str, launches: Launches, most: int) -> None:
        self.work, self.launches = work, launches
        self.card, self.clock = capability(work.device), Clock(work.device)
        self.cases = list({case.sizes: case for case in reversed(work.cases(operation))}.values())
        self.trials: list[Trial] = []
        for number in range(len(self.cases)):
            before = set(launches.asked)
            self.seconds(number, repeats=1)
            new = sorted(set(launches.asked) - before)
            self.trials += [
                Trial(number, asked, launch)
                for asked in new
                for launch in candidates(asked, self.card, most)
            ]

    def seconds(self, case: int, repeats: int = REPEATS) -> float:
        """The median step with what is chosen now."""
        steps = {"": _step(self.cases[case], self.work.device)}
        return take_turns(steps, self.clock, repeats=repeats, warm_up=1)[""].seconds

    def runs(self, trial: Trial) -> bool:
        """Whether a launch compiles and runs; a crash ends the process."""
        try:
            with self.launches.instead(trial.asked, trial.launch):
                self.seconds(trial.case, repeats=1)
        except Exception:  # out of shared memory, a tile that does not divide, …
            return False
        return True

    def search(self, trials: Sequence[Trial], deadline: float) -> None:
        """Keep the fastest of each kernel in ``launches.chosen``."""
        best: dict[Asked, float] = {}
        for case, asked, launch in trials:
            if time() > deadline:
                return
            if asked not in best:
                best[asked] = self.seconds(case)
            with self.launches.instead(asked, launch):
                seconds = self.seconds(case)
            if seconds < (1 - LEAST_GAIN) * best[asked]:
                best[asked] = seconds
                self.launches.chosen[asked] = launch

    def won(self) -> bool:
        """Whether what is chosen agrees with the reference and beats the shipped parameters."""
        chosen = self.launches.chosen
        for case in self.cases:
            if not parity.check(case, contenders(case)[OURS], self.work.device).passed:
                return False
            works = {
                name: [partial(self._launched, launches, _step(case, self.work.device))]
                for name, launches in (("shipped", {}), ("tuned", chosen))
            }
            times = take_turns(works, self.clock, repeats=2 * REPEATS, warm_up=1)
            self.launches.chosen = chosen
            print(f"{case}: {1e3 * times['shipped'].seconds:.3f} ms shipped, "
                  f"{1e3 * times['tuned'].seconds:.3f} ms tuned", flush=True)  # fmt: skip
            if times["tuned"].seconds > times["shipped"].seconds:
                return False
        return True

    def _launched(self, launches: dict[Asked, Launch], stages: Stages) -> None:
        self.launches.chosen = launches
        for stage in stages:
            stage()


def _step(case: Case, device: torch.device) -> Stages:
    """A training step of ours, on a layout of its own: tables of chunks are tuned too."""
    run = contenders(case)[OURS](case, case.layout(device))
    return training(run, case.draw(torch.Generator(device).manual_seed(0)))


def main(words: Sequence[str] | None = None) -> int:
    """Tune operation after operation; the exit code."""
    args = _parse(words)
    work = Work(torch.device(args.device), args.smoke, REPEATS)
    if args.warm:
        return _warm(work, args)
    deadline, out = time() + args.seconds, Path(args.out)
    if not out.exists():
        out.write_text(_shipped().read_text())
    for left, operation in zip(range(len(args.operations), 0, -1), args.operations, strict=True):
        until = time() + (deadline - time()) / left
        with replaced() as launches:
            try:
                tuning = Tuning(work, operation, launches, args.most)
                trials = _working(tuning, args, operation, (until - time()) / 2)
                print(
                    f"{operation}: {len(trials)} of {len(tuning.trials)} candidates run", flush=True
                )
                tuning.search(trials, until)
                if launches.chosen and tuning.won():
                    write(out, tuning.card, launches.chosen)
                    for asked, launch in launches.chosen.items():
                        print(f"  {asked}: {launch}", flush=True)
            except Exception as error:  # the next operation may do better
                print(f"{operation} is not tuned: {type(error).__name__}: {error}", flush=True)
    return 0


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__)
    there = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cuda", "cpu"], default=there)
    parser.add_argument("--smoke", action="store_true", help="tiny cases, for the interpreter")
    parser.add_argument("--operations", nargs="*", default=operations_of(), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=240, help="about so long, in all")
    parser.add_argument("--most", type=int, default=24, help="candidates of a kernel")
    parser.add_argument("--out", default=str(_shipped()), help="the table to write rows into")
    parser.add_argument("--warm", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if unknown := sorted(set(args.operations) - set(operations_of())):
        parser.error(f"--operations {' '.join(unknown)}: choose of {' '.join(operations_of())}")
    if args.device == "cpu" and not args.smoke:
        parser.error("--device cpu runs kernels in Triton's interpreter: add --smoke")
    if not Path(args.out).absolute().parent.is_dir():
        parser.error(f"--out {args.out}: there is no such folder, make it first")
    return args


def _shipped() -> Path:
    return Path(str(files("lmtrain_kernels"))) / "tuned.json"


def _working(
    tuning: Tuning, args: argparse.Namespace, operation: str, seconds: float
) -> list[Trial]:
    """Those that other processes could run."""
    if tuning.work.device.type != "cuda":
        return [trial for trial in tuning.trials if tuning.runs(trial)]
    count = min(12, os.cpu_count() or 1)
    command = [sys.executable, "-m", "benchmarks.tune", "--operations", operation]
    processes = [
        subprocess.Popen(
            [*command, "--most", str(args.most), "--warm", str(number), str(count)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for number in range(count)
    ]
    until, found = time() + seconds, list[int]()
    for process in processes:
        try:
            told, _ = process.communicate(timeout=max(1, until - time()))
        except subprocess.TimeoutExpired:
            process.kill()
            told, _ = process.communicate()
        found += [json.loads(line)["runs"] for line in told.splitlines() if line.startswith("{")]
    return [tuning.trials[number] for number in sorted(found)]


def _warm(work: Work, args: argparse.Namespace) -> int:
    """Try every ``count``-th candidate once; tell which run."""
    number, count = args.warm
    with replaced() as launches:
        tuning = Tuning(work, args.operations[0], launches, args.most)
        for index in range(number, len(tuning.trials), count):
            if tuning.runs(tuning.trials[index]):
                print(json.dumps({"runs": index}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
