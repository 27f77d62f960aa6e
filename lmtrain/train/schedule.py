"""Learning rates: pure functions of the step."""

from __future__ import annotations

from math import cos, pi

from lmtrain.settings.optim import OptimConfig, Schedule


def learning_rate(step: int, *, steps: int, optim: OptimConfig) -> float:
    """The rate of update ``step`` (from 0) of ``steps``.

    The warm-up reaches ``lr`` at update ``warmup_steps - 1``; the last update of cosine and wsd
    has ``final_fraction * lr``.
    """
    warmup = min(1.0, (step + 1) / max(optim.warmup_steps, 1))
    return optim.lr * warmup * decay(step, steps=steps, optim=optim)


def decay(step: int, *, steps: int, optim: OptimConfig) -> float:
    """The factor on ``lr`` after the warm-up, from 1 down to ``final_fraction``."""
    match optim.schedule:
        case Schedule.constant:
            return 1.0
        case Schedule.cosine:
            done = _progress(step, first=min(optim.warmup_steps, steps), last=steps - 1)
            shape = (1 + cos(pi * done)) / 2
        case Schedule.wsd:
            decaying = round(optim.decay_fraction * steps)
            shape = 1 - _progress(step, first=steps - decaying - 1, last=steps - 1)
    return optim.final_fraction + (1 - optim.final_fraction) * shape


def _progress(step: int, *, first: int, last: int) -> float:
    """0 until ``first``, 1 from ``last`` on, straight between."""
    return min(max((step - first) / max(last - first, 1), 0.0), 1.0)
