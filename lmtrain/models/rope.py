"""Rotary positions beyond the length of the training: the keys of ``model.*.rope_scaling``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import StrEnum


class RopeKind(StrEnum):
    """What becomes of the rotary frequencies; `RopeScaling.kind` says where each comes from."""

    none = "none"
    linear = "linear"
    yarn = "yarn"
    llama3 = "llama3"


USED: dict[RopeKind, tuple[str, ...]] = {
    RopeKind.none: (),
    RopeKind.linear: ("factor",),
    RopeKind.yarn: ("factor", "beta_fast", "beta_slow", "attention_factor", "original_length"),
    RopeKind.llama3: ("factor", "low_freq_factor", "high_freq_factor", "original_length"),
}
"""The fields that each kind reads: the arguments of its function in `lmtrain.ops.rotary`."""

BORDERS = {
    RopeKind.yarn: ("beta_slow", "beta_fast"),
    RopeKind.llama3: ("low_freq_factor", "high_freq_factor"),
}
"""The turns within original_length between which pairs go over, the slow border first."""


@dataclass(kw_only=True)
class RopeScaling:
    """Slower rotary frequencies, so that a longer document turns no further than a trained one.

    The keys are those of ``rope_parameters`` in transformers 5.
    """

    kind: RopeKind = RopeKind.none
    """none: as trained; linear: position interpolation (arXiv 2306.15595), every frequency divided
    by factor; yarn: only those that turn seldom within original_length are divided, the fast ones
    stay, and logits of attention grow a little (arXiv 2309.00071); llama3: as Llama 3.1 has it, the
    same with other borders and without the growth (arXiv 2407.21783)."""
    factor: float = 1.0
    """How many times longer documents become."""
    original_length: int | None = None
    """With kind=yarn or llama3: tokens of the longest documents before the extension."""
    beta_fast: float = 32.0
    """With kind=yarn: pairs that turn at least this often within original_length stay."""
    beta_slow: float = 1.0
    """With kind=yarn: pairs that turn at most this often within it are divided by factor."""
    attention_factor: float | None = None
    """With kind=yarn: what queries and keys are multiplied by; null is the paper's 0.1 ln(factor) +
    1."""
    high_freq_factor: float = 4.0
    """With kind=llama3: pairs that turn at least this often within original_length stay."""
    low_freq_factor: float = 1.0
    """With kind=llama3: pairs that turn at most this often within it are divided by factor."""

    def problems(self, *, rope: bool) -> Iterator[tuple[str, str]]:
        """What is wrong with it: pairs of field and remedy.

        Args:
            rope: whether the section has rotary positions at all.
        """
        if self.kind is not RopeKind.none and not rope:
            yield "kind", f"{self.kind} scales rotary positions and rope=false has none: say none"
        for name in _unused(self):
            remedy = "leave it out"
            if self.kind is RopeKind.none:
                remedy = f"say kind={' or '.join(kind for kind in USED if name in USED[kind])}"
            yield name, f"{getattr(self, name)} does nothing with kind={self.kind}: {remedy}"
        if not self.factor >= 1:
            yield (
                "factor",
                f"{self.factor} would shorten: choose 1 or more",
            )
        if "original_length" in USED[self.kind] and (self.original_length or 0) < 1:
            remedy = f"{self.kind} needs the length of the training before, in tokens"
            yield "original_length", f"{_said(self.original_length)}: {remedy}"
        if self.kind in BORDERS:
            slow, fast = BORDERS[self.kind]
            low, high = getattr(self, slow), getattr(self, fast)
            if not 0 < low < high:
                yield slow, f"{low} with {fast}={high}: choose a number above 0, below {fast}"
        if self.attention_factor is not None and not self.attention_factor > 0:
            yield "attention_factor", f"{self.attention_factor} must be above 0"


def _unused(scaling: RopeScaling) -> list[str]:
    """Fields that were set although the kind has no use for them."""
    used = "kind", *USED[scaling.kind]
    others = (each for each in fields(scaling) if each.name not in used)
    return [each.name for each in others if getattr(scaling, each.name) != each.default]


def _said(value: int | None) -> str:
    return "null" if value is None else str(value)
