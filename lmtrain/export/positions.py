"""Rotary positions as ``config.json`` says them: ``rope_parameters``, and older spellings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lmtrain.models.rope import USED, RopeKind, RopeScaling

if TYPE_CHECKING:
    from lmtrain.models.config import AttentionConfig

Json = dict[str, Any]

KINDS = {
    "default": RopeKind.none,
    "linear": RopeKind.linear,
    "yarn": RopeKind.yarn,
    "llama3": RopeKind.llama3,
}
TYPES = {kind: name for name, kind in KINDS.items()}
THEIRS = {"original_length": "original_max_position_embeddings"}
"""Fields of a scaling that are not called alike on both sides."""
OPTIONAL = ("beta_fast", "beta_slow", "attention_factor")
COMMON = {
    *("rope_type", "type", "rope_theta", "partial_rotary_factor"),
    *("mrope_section", "mrope_interleaved"),  # equal positions for text
}
"""Keys beside those of a scaling; others of a scaled kind are refused by name."""


def rotary(a: AttentionConfig, **more: Any) -> Json:
    """Rotary positions, in today's spelling and in the older one of servers."""
    rope = {**parameters(a), "partial_rotary_factor": a.partial_rotary_factor, **more}
    older = {"rope_scaling": rope} if a.rope_scaling.kind is not RopeKind.none else {}
    return {"rope_parameters": rope, "rope_theta": a.rope_theta, **older}


def parameters(a: AttentionConfig) -> Json:
    """``rope_parameters`` of one kind of layer."""
    scaling = a.rope_scaling
    said: Json = {"rope_type": TYPES[scaling.kind], "rope_theta": a.rope_theta}
    for name in USED[scaling.kind]:
        value = getattr(scaling, name)
        if value is not None:
            said[THEIRS.get(name, name)] = value
    return said


def positions(said: Json, *, of_parts: bool = False) -> Json:
    """The keys of an attention section behind rotary positions, in either spelling.

    Args:
        said: the ``config.json``.
        of_parts: whether the architecture can turn a part of each head.

    Raises:
        ValueError: they are scaled in a way that lmtrain does not compute, or of another part.
    """
    rope = {**(said.get("rope_parameters") or {}), **(said.get("rope_scaling") or {})}
    name = rope.get("rope_type", rope.get("type", "default"))
    part = rope.get("partial_rotary_factor", said.get("partial_rotary_factor", 1.0))
    fits = isinstance(part, int | float) and (of_parts or part == 1)
    if name not in KINDS or not fits:
        raise ValueError(
            f"its rotary positions are {name} over {part} of a head: lmtrain has "
            f"{', '.join(KINDS)}, over {'a number up to 1.0' if of_parts else '1.0'}"
        )
    return {
        "partial_rotary_factor": float(part),
        "rope_theta": float(rope.get("rope_theta") or said["rope_theta"]),
        "rope_scaling": _scaling(KINDS[name], rope),
    }


def _scaling(kind: RopeKind, rope: Json) -> RopeScaling:
    if kind is RopeKind.none:
        return RopeScaling()
    found = {key: value for key, value in rope.items() if value is not None}
    if found.get("truncate") is True:  # what is always done here
        del found["truncate"]
    keys = {name: THEIRS.get(name, name) for name in USED[kind]}
    for key in sorted(found.keys() - COMMON - {*keys.values()}):
        raise ValueError(f"its rotary positions have {key}={found[key]}, which lmtrain has not")
    numbers: Json = {
        name: (int if name in THEIRS else float)(found[key])
        for name, key in keys.items()
        if key in found or name not in OPTIONAL
    }
    return RopeScaling(kind=kind, **numbers)
