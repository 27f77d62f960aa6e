"""What a plan will do, as a table to read before the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmtrain.data.mixture_summary import mixture_lines

if TYPE_CHECKING:
    from lmtrain.data.plan import Plan
    from lmtrain.data.views import View


def summarize(plan: Plan, steps: int | None = None) -> str:
    """Pieces, shares and steps of each bucket, and what the curriculum leaves out.

    ``context`` is how many tokens a token sees before it, on average, and ``attention`` the work
    of full attention, relative to documents that run on and are cut at the longest length.

    Args:
        plan: the plan.
        steps: steps of the run; None is one pass over the data.
    """
    end = plan.first_step + plan.steps_per_pass if steps is None else steps
    counts = plan.counts(end - plan.first_step)
    total, full = max(1, sum(counts)), max(1, plan.lengths[-1] - 1) / 2
    lines = [
        f"{'length':>8} {'pieces':>10} {'tokens':>14} {'steps':>9} {'share':>7} {'epochs':>7} "
        f"{'context':>9} {'attention':>9}"
    ]
    contexts = [bucket.context for bucket in plan.buckets]
    for bucket, count, context in zip(plan.buckets, counts, contexts, strict=True):
        epochs = count * plan.tokens_per_step / bucket.tokens
        lines.append(
            f"{bucket.length:>8,} {len(bucket):>10,} {bucket.tokens:>14,} {count:>9,} "
            f"{count / total:>7.1%} {epochs:>7.2f} {context:>9,.0f} {context / full:>9.1%}"
            f"{'' if bucket.packing is None else ' packed'}"
        )
    context = sum(n * each for n, each in zip(counts, contexts, strict=True)) / total
    lines.append(
        f"mean context {context:,.0f} tokens, {context / full:.1%} of the attention of documents "
        f"that run on; {plan.schedule.cycle_steps:,} steps a cycle"
    )
    notes = [_kept(plan.drawn), *_window(plan), *_cut(plan, end)]
    return "\n".join([*lines, *notes, *mixture_lines(plan, end), *plan.warnings])


def _kept(view: View) -> str:
    """What became of the targets of the documents."""
    pairs, tokens = max(1, view.pairs), max(1, sum(bucket.tokens for bucket in view.buckets))
    return (
        f"{view.kept / pairs:.2%} of {view.pairs:,} targets kept, "
        f"{1 - view.kept / pairs:.2%} dropped, {view.repeated / pairs:.2%} repeated; "
        f"{view.padding / tokens:.2%} of the tokens are padding"
    )


def _window(plan: Plan) -> list[str]:
    if plan.window is None:
        return []
    first = plan.window.full(plan.lengths[-1])
    return [
        f"the window is {plan.window.start:,} tokens at first and whole from step {first:,} on; "
        "until then context and attention are below these"
    ]


def _cut(plan: Plan, end: int) -> list[str]:
    """A last cycle that is not whole: the buckets that would come late in it are drawn less."""
    steps = end - plan.first_step
    missing = plan.schedule.cycle_end(steps) - steps
    if not missing or plan.schedule.odds is None or len(plan.buckets) == 1:
        return []
    return [
        f"the run ends {missing:,} steps before the end of a cycle, so the lengths that come late "
        "in it are drawn less: change train.steps or curriculum.cycle_steps for whole cycles"
    ]
