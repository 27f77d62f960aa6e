"""What the cost model has to know of the mixers of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmtrain.models.config import SlidingWindowConfig
from lmtrain.models.pattern import parse
from lmtrain.parallel.shape import AttentionShape, RecurrentShape, Shape, Transition

if TYPE_CHECKING:
    from lmtrain.models.config import (
        AttentionConfig,
        GatedDeltaNetConfig,
        Mamba2Config,
        ModelConfig,
    )
    from lmtrain.models.pattern import BlockSpec


def shapes(model: ModelConfig) -> dict[str, Shape]:
    """The shape of the mixer of each letter that the pattern holds, in their order."""
    letters = dict.fromkeys(letter for spec in _specs(model) for letter in spec.mixers)
    return {letter: shape(letter, model) for letter in letters}


def layers(model: ModelConfig) -> dict[str, int]:
    """How many mixers of each letter the model has."""
    found = [letter for spec in _specs(model) for letter in spec.mixers]
    return {letter: found.count(letter) for letter in dict.fromkeys(found)}


def shape(letter: str, model: ModelConfig) -> Shape:
    """The shape of the mixer that a letter of a pattern names."""
    match letter:
        case "A":
            return _attention(model.attention, model.d_model)
        case "W":
            return _attention(model.sliding_window, model.d_model)
        case "M":
            return _mamba2(model.mamba2, model.d_model)
        case "G":
            return _gated_deltanet(model.gated_deltanet)
        case _:
            raise AssertionError(letter)


def _specs(model: ModelConfig) -> tuple[BlockSpec, ...]:
    return parse(model.pattern, model.n_layers)


def _attention(config: AttentionConfig, d_model: int) -> AttentionShape:
    window = config.window if isinstance(config, SlidingWindowConfig) else None
    return AttentionShape(config.heads, config.kv_heads, config.width(d_model), window)


def _mamba2(config: Mamba2Config, d_model: int) -> RecurrentShape:
    return RecurrentShape(
        heads=config.heads(d_model),
        key_heads=config.groups,
        key_dim=config.state_dim,
        value_dim=config.head_dim,
        transition=Transition.scalar,
        conv_channels=config.width(d_model) + 2 * config.groups * config.state_dim,
        taps=config.conv_width,
    )


def _gated_deltanet(config: GatedDeltaNetConfig) -> RecurrentShape:
    keys, values = config.key_heads * config.key_dim, config.value_heads * config.value_dim
    return RecurrentShape(
        heads=config.value_heads,
        key_heads=config.key_heads,
        key_dim=config.key_dim,
        value_dim=config.value_dim,
        transition=Transition.matrix,
        conv_channels=2 * keys + values,
        taps=config.conv_width,
    )
