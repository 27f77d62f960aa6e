"""The configuration of a hybrid that is made from a transformer: what is asked, or why not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lmtrain.config import require
from lmtrain.models.config import (
    AttentionConfig,
    GatedDeltaNetConfig,
    Mamba2Config,
    SlidingWindowConfig,
)
from lmtrain.models.pattern import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.models.config import ModelConfig
    from lmtrain.models.pattern import BlockSpec
    from lmtrain.settings.export import ImportConfig

ATTENTION = {("A",), ("W",)}
"""Mixers of a block that is attention alone."""

SECTIONS = {"gated_deltanet": "G", "mamba2": "M", "window": "W"}
"""The letter that a key of the import shapes."""


def hybrid_config(source: ModelConfig, config: ImportConfig) -> ModelConfig:
    """The configuration of a hybrid: that of the source, with the mixers that ``pattern`` names.

    Raises:
        ValueError: the word makes no sense over this source, or a width is given twice.
    """
    assert config.pattern is not None
    old, new = parse(source.pattern, source.n_layers), parse(config.pattern, source.n_layers)
    word = f"pattern={config.pattern}"
    require([f"{word}: {why}" for why in _refusals(source, old, new)])
    changed = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
    own = {letter for spec in old for letter in spec.mixers}
    model = replace(source, pattern=config.pattern)
    for was, now in changed:
        attention, letter = section(source, was), now.mixers[0]
        if letter not in own:
            model = _with_section(model, letter, attention, config)
            own.add(letter)
    made = {now.mixers[0] for _, now in changed} - {x for spec in old for x in spec.mixers}
    shaped = {key: SECTIONS[key.partition(".")[0]] for key in config.shapes()}
    unread = {key: letter for key, letter in shaped.items() if letter not in made}
    require(
        [f"{k} shapes a new {x}, and {word} makes none: leave it out" for k, x in unread.items()]
    )
    require([f"{word}: {why}" for why in model.check()])
    return model


def _with_section(
    model: ModelConfig, letter: str, attention: AttentionConfig, config: ImportConfig
) -> ModelConfig:
    """The same stack with a section for a new letter, shaped like ``attention`` unless told."""
    width, heads = attention.width(model.d_model), attention.heads
    common = {n: getattr(attention, n) for n in AttentionConfig.__dataclass_fields__}
    match letter:
        case "A":
            return replace(model, attention=AttentionConfig(**common))
        case "W":
            window = SlidingWindowConfig(**common, **_given(window=config.window))
            return replace(model, sliding_window=window)
        case "G":
            like = {"key_heads": heads, "value_heads": heads, "key_dim": width, "value_dim": width}
            given = _given(**vars(config.gated_deltanet))
            return replace(model, gated_deltanet=GatedDeltaNetConfig(**{**like, **given}))
        case _:
            given = _given(**vars(config.mamba2))
            like = {"head_dim": width, "state_dim": width}
            if "expand" not in given:
                like["inner"] = heads * width
            mamba2 = Mamba2Config(**{**like, **given})
            groups = given.get("groups", mamba2.heads(model.d_model))
            return replace(model, mamba2=replace(mamba2, groups=groups))


def _given(**values: float | None) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _refusals(
    source: ModelConfig, old: tuple[BlockSpec, ...], new: tuple[BlockSpec, ...]
) -> Iterator[str]:
    """Why a word makes no sense over a source, the first block of each kind."""
    told = set[str]()
    for i, (was, now) in enumerate(zip(old, new, strict=True)):
        if was != now and (why := _refusal(source, was, now)) and why not in told:
            told.add(why)
            yield f"block {i} is {was} in the source and {now} in the word: {why}"
    if all(was == now for was, now in zip(old, new, strict=True)):
        yield f"that is what the source is ({source.pattern}): leave pattern out"


def _refusal(source: ModelConfig, was: BlockSpec, now: BlockSpec) -> str:
    """Why a block cannot be made of another; empty if it can."""
    if was.mlp != now.mlp:
        return "an MLP neither comes nor goes: write the letter as large or small as the source's"
    if was.mixers not in ATTENTION:
        return "only attention alone can become another mixer: keep the source's letters there"
    if len(now.mixers) != 1:
        return "mixers side by side have norms that the source lacks: choose one letter"
    if now.mixers in ATTENTION:
        return _unlike(source, section(source, was), now.mixers[0])
    if section(source, was).norm_after:
        return (
            "its norms come after mixer and MLP, and those of a recurrent block before them: only "
            "A and W can stand there"
        )
    return ""


def _unlike(source: ModelConfig, attention: AttentionConfig, letter: str) -> str:
    """Why the source's own ``letter`` cannot take the weights of an attention; empty if it can."""
    if not _has(source, letter):
        return ""
    there = source.attention if letter == "A" else source.sliding_window
    names = AttentionConfig.__dataclass_fields__
    differs = [name for name in names if getattr(there, name) != getattr(attention, name)]
    if not differs:
        return ""
    return f"the two differ in {', '.join(differs)}: keep the source's letters there"


def _has(model: ModelConfig, letter: str) -> bool:
    return any(letter in spec.mixers for spec in parse(model.pattern, model.n_layers))


def section(model: ModelConfig, spec: BlockSpec) -> AttentionConfig:
    """The attention of a block that is attention alone."""
    return model.attention if spec.mixers == ("A",) else model.sliding_window
