"""What a plan will do, as a table to read before the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmtrain.data.mixture_summary import mixture_lines

if TYPE_CHECKING:
    from lmtrain.data.plan import Plan


def summarize(plan: Plan, steps: int | None = None) -> str:
    """Pieces, shares and steps of each bucket, and what the curriculum leaves out.

    Args:
        plan: the plan.
        steps: steps of the run; None is one pass over the data.
    """
    end = plan.first_step + plan.steps_per_pass if steps is None else steps
    counts = plan.counts(end - plan.first_step)
    total = max(1, sum(counts))
    lines = [f"{'length':>8} {'pieces':>10} {'tokens':>14} {'steps':>9} {'share':>7} {'epochs':>7}"]
    for bucket, count in zip(plan.buckets, counts, strict=True):
        epochs = count * plan.tokens_per_step / bucket.tokens
        lines.append(
            f"{bucket.length:>8,} {len(bucket):>10,} {bucket.tokens:>14,} {count:>9,} "
            f"{count / total:>7.1%} {epochs:>7.2f}"
        )
    context = sum(n * (size - 1) / 2 for n, size in zip(counts, plan.lengths, strict=True)) / total
    kept = plan.view.kept / max(1, plan.view.pairs)
    lines.append(
        f"mean context {context:,.0f} tokens; {kept:.1%} of {plan.view.pairs:,} targets kept, "
        f"{plan.view.repeated:,} repeated; {plan.schedule.cycle_steps:,} steps a cycle"
    )
    return "\n".join([*lines, *mixture_lines(plan, end), *plan.warnings])
