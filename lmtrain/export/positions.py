"""Rotary positions as ``config.json`` says them: ``rope_parameters``, and older spellings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lmtrain.models.rope import RopeKind, RopeScaling

if TYPE_CHECKING:
    from lmtrain.models.config import AttentionConfig

Json = dict[str, Any]

KINDS = {"default": RopeKind.none, "linear": RopeKind.linear, "yarn": RopeKind.yarn}
TYPES = {kind: name for name, kind in KINDS.items()}
READ = {
    *("rope_type", "type", "rope_theta", "partial_rotary_factor", "factor"),
    *("original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor"),
    *("mrope_section", "mrope_interleaved"),  # equal positions for text
}
"""Keys that `read` understands; others of a scaled kind are refused by name."""


def rotary(a: AttentionConfig, **more: Any) -> Json:
    """Rotary positions over the whole head, in today's spelling and in the older one of servers."""
    rope = {**parameters(a), "partial_rotary_factor": 1.0, **more}
    older = {"rope_scaling": rope} if a.rope_scaling.kind is not RopeKind.none else {}
    return {"rope_parameters": rope, "rope_theta": a.rope_theta, **older}


def parameters(a: AttentionConfig) -> Json:
    """``rope_parameters`` of one kind of layer."""
    scaling = a.rope_scaling
    said: Json = {"rope_type": TYPES[scaling.kind], "rope_theta": a.rope_theta}
    if scaling.kind is not RopeKind.none:
        said["factor"] = scaling.factor
    if scaling.kind is RopeKind.yarn:
        said["original_max_position_embeddings"] = scaling.original_length
        said |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
        if scaling.attention_factor is not None:
            said["attention_factor"] = scaling.attention_factor
    return said


def positions(said: Json) -> Json:
    """The keys of an attention section behind full rotary positions, in either spelling.

    Raises:
        ValueError: they are scaled in a way that lmtrain does not compute, or rotate a part of the
            head.
    """
    rope = {**(said.get("rope_parameters") or {}), **(said.get("rope_scaling") or {})}
    name = rope.get("rope_type", rope.get("type", "default"))
    part = rope.get("partial_rotary_factor", said.get("partial_rotary_factor", 1.0))
    if name not in KINDS or part != 1.0:
        raise ValueError(
            f"its rotary positions are {name} over {part} of a head: lmtrain has "
            f"{', '.join(KINDS)}, over 1.0"
        )
    theta = float(rope.get("rope_theta") or said["rope_theta"])
    return {"rope_theta": theta, "rope_scaling": _scaling(KINDS[name], rope)}


def _scaling(kind: RopeKind, rope: Json) -> RopeScaling:
    if kind is RopeKind.none:
        return RopeScaling()
    set_ = {key: value for key, value in rope.items() if value is not None}
    if set_.get("truncate") is True:  # what is always done here
        del set_["truncate"]
    for key in sorted(set_.keys() - READ):
        raise ValueError(f"its rotary positions have {key}={set_[key]}, which lmtrain has not")
    if kind is RopeKind.linear:
        return RopeScaling(kind=kind, factor=float(rope["factor"]))
    numbers = {
        key: float(set_[key])
        for key in ("factor", "beta_fast", "beta_slow", "attention_factor")
        if key in set_
    }
    length = set_["original_max_position_embeddings"]
    return RopeScaling(kind=kind, original_length=length, **numbers)
