"""What a run needs of a rank, in memory and in time, and what to change: tables and sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from lmtrain.inspect.advice import ROOM, advise, fits, longest
from lmtrain.inspect.memory import busiest
from lmtrain.inspect.model import size
from lmtrain.inspect.time import step_time

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lmtrain.inspect.case import Case


def tell(case: Case) -> list[RenderableType]:
    """Memory, time, and a sentence on what fits."""
    return [_memory(case), _time(case), _verdict(case), *_budget(case)]


def _memory(case: Case) -> Table:
    held, engine = busiest(case), case.config.engine
    kind = "one process" if case.world == 1 else f"{engine.kind} of {case.world} processes"
    rows = Table(
        title=f"A rank of {kind}, {case.span:,} tokens at once, engine.remat={engine.remat}, "
        f"engine.precision={engine.precision}"
    )
    rows.add_column("memory", no_wrap=True)
    rows.add_column("", justify="right", no_wrap=True)
    for name, amount in held.rows.items():
        if amount:
            rows.add_row(name, size(amount))
    rows.add_section()
    rows.add_row(f"most, at: {held.moment}", size(held.total))
    rows.add_row(f"of {case.hardware.name}", size(case.hardware.memory))
    return rows


def _time(case: Case) -> Table:
    step, train = step_time(case), case.config.train
    speed = train.tokens_per_step / step.total
    flops = case.cost.training_flops_per_token([case.length])
    if case.taught:
        flops += case.taught.cost.total.flops_per_token([case.length])
    rows = Table(title=f"A step of {train.tokens_per_step:,} tokens on {case.hardware.name}")
    rows.add_column("time, predicted", no_wrap=True)
    for heading in ("ms", "share"):
        rows.add_column(heading, justify="right", no_wrap=True)
    parts = {
        **step.layers,
        "shared rows": step.rows,
        f"{case.config.engine.kind}: parameters, gradients": step.engine,
        "update": step.update,
        "teacher, forward": step.teacher,
    }
    for name, seconds in parts.items():
        if seconds:
            rows.add_row(name, f"{1e3 * seconds:,.3g}", f"{seconds / step.total:.0%}")
    rows.add_section()
    share = flops * speed / case.world / case.hardware.products
    said = f"{speed:,.0f} tokens/s, {share:.0%} of its products' speed"
    rows.add_row(said, f"{1e3 * step.total:,.3g}", "")
    if case.taught:
        distill = case.config.distill
        taught = distill.layers_steps + distill.logits_steps
        alone = f"{1e3 * (step.total - step.teacher):,.3g}"
        rows.add_row(f"behind step {taught:,}, without the teacher", alone, "")
    return rows


def _budget(case: Case) -> list[str]:
    """What is not predicted of the number of steps."""
    hours = case.config.budget.hours
    if hours is None:
        return []
    return [
        f"budget.hours={hours:g} becomes a number of steps when the run starts, by updates that it "
        "times then."
    ]


def _verdict(case: Case) -> str:
    """Whether it fits, the longest document that does, and what to change."""
    far, room = longest(case), f"{ROOM:.0%} of {size(case.hardware.memory)}"
    length = (
        f"Documents of up to {far:,} tokens fit in rows of their own."
        if far
        else "No document fits in a row of its own."
    )
    if fits(case):
        return f"It fits in {room}. {length}"
    advice = advise(case)
    if advice is None:
        return (
            f"It does not fit in {room}, and no change of engine.remat, parallel.sequence or "
            f"train.accumulate makes it: take more processes or a smaller model. {length}"
        )
    return (
        f"It does not fit in {room}. The smallest change that does, "
        f"{size(advice.memory.total)} and {1e3 * advice.seconds:,.3g} ms a step:\n"
        f"  {advice.overrides}\n{length}"
    )
