"""What a plan will do, as a table to read before the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmtrain.data.plan import Plan


def summarize(plan: Plan, steps: int | None = None) -> str:
    """Pieces, shares and steps of each bucket, and what the curriculum leaves out.

    Args:
        plan: the plan.
        steps: steps of the run; None is one pass over the data.
    """
    counts = plan.counts(plan.steps_per_pass if steps is None else steps)
    total = max(1, sum(counts.values()))
    lines = [f"{'length':>8} {'pieces':>10} {'tokens':>14} {'steps':>9} {'share':>7} {'epochs':>7}"]
    for length, count in counts.items():
        pieces = len(plan.buckets[length])
        epochs = count * plan.tokens_per_step / (pieces * length)
        lines.append(
            f"{length:>8,} {pieces:>10,} {pieces * length:>14,} {count:>9,} "
            f"{count / total:>7.1%} {epochs:>7.2f}"
        )
    context = sum(count * (length - 1) / 2 for length, count in counts.items()) / total
    kept = plan.pieces.kept / max(1, plan.pieces.pairs)
    lines.append(
        f"mean context {context:,.0f} tokens; {kept:.1%} of {plan.pieces.pairs:,} targets kept, "
        f"{plan.pieces.repeated:,} repeated; {plan.schedule.cycle_steps:,} steps a cycle"
    )
    return "\n".join([*lines, *plan.warnings])
