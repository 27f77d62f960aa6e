"""What one process does: screen a contender, or time those that passed, a line for each result."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from benchmarks import parity
from benchmarks.autotuning import share
from benchmarks.cases import CASES, SMOKE
from benchmarks.contenders import OURS, contenders
from benchmarks.timing import Ceilings, Clock, Stages, ceilings, forward, take_turns, training

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from benchmarks.case import Case, Cost
    from benchmarks.contenders import Run

Line = dict[str, Any]

PASSES = {"forward": forward, "training": training}
SLOW = {"gated_delta": ("torch",), "ssd": ("torch",)}
"""Contenders that are only measured on the first case of an operation."""


class Work(NamedTuple):
    """What to measure, and how."""

    device: torch.device
    smoke: bool
    repeats: int

    def cases(self, operation: str) -> list[Case]:
        """Of an operation, the most telling first."""
        return [case for case in (SMOKE if self.smoke else CASES) if case.operation == operation]


def operations_of(cases: Sequence[Case] = CASES) -> list[str]:
    """Names, in the order of the cases."""
    return list(dict.fromkeys(case.operation for case in cases))


def screen(work: Work, operation: str, contender: str) -> Iterator[Line]:
    """Compare with the reference at every size, then run every case once.

    The second compiles all that the timing will need, and tells which cases a contender cannot do.
    """
    seen: dict[str, bool] = {}
    for case in _fitting(work.cases(operation), contender):
        about = {**_about(case), "contender": contender}
        try:
            if case.sizes not in seen:
                found = parity.check(case, contenders(case)[contender], work.device)
                seen[case.sizes] = found.passed
                _give_back(work.device)
                yield {
                    "what": "parity", **about, "errors": found.errors, "passed": found.passed
                }  # fmt: skip
            if seen[case.sizes] and not work.smoke:
                _once(case, contender, work.device)
        except Exception as error:  # whatever a library raises is its result
            seen.setdefault(case.sizes, False)
            yield _failure(about, error)


def warm(work: Work, operation: str, contender: str, number: int, count: int) -> Iterator[Line]:
    """Compile what a contender needs: process ``number`` of ``count`` that do so side by side.

    Autotuned kernels are shared out by configuration. Those that cache what they compile on disk
    profit from cases in another order in each process.
    """
    share(number, count)
    cases = _fitting(work.cases(operation), contender)
    for case in [*cases[number:], *cases[:number]]:
        for each in (case.small(), case):
            try:
                _once(each, contender, work.device)
            except Exception as error:
                yield _failure({**_about(each), "contender": contender}, error)


def timed(
    work: Work, operation: str, passed: Sequence[str], limits: Ceilings | None, deadline: float
) -> Iterator[Line]:
    """Times of all contenders that passed, in turns."""
    clock = Clock(work.device)
    for case in work.cases(operation):
        names = [name for name in passed if case in _fitting(work.cases(operation), name)]
        inputs = case.draw(torch.Generator(work.device).manual_seed(0))
        for kind in PASSES if case.training else ("forward",):
            about = {**_about(case), "pass": kind}
            if time() > deadline:
                yield {"what": "skipped", **about, "why": "no time is left"}
                continue
            yield from _pass(work, case, kind, names, inputs, clock, limits)
        del inputs


def measured_ceilings(device: torch.device) -> Ceilings:
    """Of plain copies and products on this card."""
    return ceilings(Clock(device))


def floor(case: Case, kind: str, limits: Ceilings) -> float:
    """Seconds: for each direction the slower of its bytes and its products."""

    def least(cost: Cost) -> float:
        bytes_ = cost.bytes / limits.bytes_per_second
        return max(bytes_, cost.flops / limits.flops_per_second)

    return least(case.forward()) + (least(case.backward()) if kind == "training" else 0)


def _pass(
    work: Work,
    case: Case,
    kind: str,
    names: Sequence[str],
    inputs: tuple[Tensor, ...],
    clock: Clock,
    limits: Ceilings | None,
) -> Iterator[Line]:
    """One pass of one case."""
    about, ready = {**_about(case), "pass": kind}, dict[str, Stages]()
    for name in names:
        try:
            stages = PASSES[kind](_build(case, name, work.device), inputs)
            clock.turn(stages, 0)
            ready[name] = stages
        except Exception as error:
            yield _failure({**about, "contender": name}, error)
    warm_up = 0 if work.smoke else 2
    least = floor(case, kind, limits) if limits else None
    for name, times in take_turns(ready, clock, repeats=work.repeats, warm_up=warm_up).items():
        yield {
            "what": "time",
            **about,
            "contender": name,
            "seconds": times.seconds,
            "stages": [times.stage(i) for i in range(len(times.stages[0]))],
            "host": sorted(times.host)[len(times.host) // 2],
            "floor": least,
            "turns": [round(sum(turn), 8) for turn in times.stages],
        }


def _once(case: Case, contender: str, device: torch.device) -> None:
    """Every pass, untimed."""
    run, inputs = _build(case, contender, device), case.draw(torch.Generator(device))
    for kind in PASSES if case.training else ("forward",):
        for stage in PASSES[kind](run, inputs):
            stage()
    _give_back(device)


def _give_back(device: torch.device) -> None:
    """Let other processes have the memory of the card."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def _build(case: Case, contender: str, device: torch.device) -> Run:
    return contenders(case)[contender](case, case.layout(device))


def _fitting(cases: list[Case], contender: str) -> list[Case]:
    slow = bool(cases) and contender in SLOW.get(cases[0].operation, ())
    return cases[:1] if slow else cases


def _about(case: Case) -> Line:
    return {
        "operation": case.operation,
        "sizes": case.sizes,
        "documents": case.documents,
        "tokens": case.tokens,
    }


def _failure(about: Line, error: Exception) -> Line:
    text = str(error).strip() or type(error).__name__
    return {"what": "failure", **about, "why": f"{type(error).__name__}: {text[:400]}"}


def names_of(work: Work, operation: str, only: Sequence[str]) -> list[str]:
    """Contenders of an operation, ours always among them."""
    known = contenders(work.cases(operation)[0])
    return [name for name in known if not only or name in only or name == OURS]
