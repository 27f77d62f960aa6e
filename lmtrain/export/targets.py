"""Where a stack can go: the models of transformers that compute the same, and our own code."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lmtrain.export.folding import Factors
from lmtrain.export.links import Link
from lmtrain.models.config import AttentionConfig, MlpKind, ModelConfig, NormConfig
from lmtrain.models.pattern import BlockSpec, parse

Json = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """One architecture: what keeps a stack out of it, and the tables that bring it in and back."""

    model_type: str
    """As ``config.json`` names it."""
    architecture: str
    """The class that transformers builds."""
    served_by: str
    """Servers that load it, for the model card."""
    blockers: Callable[[ModelConfig], list[str]]
    """Why a stack has no home here: sentences that begin with the field."""
    describe: Callable[[ModelConfig], Json]
    """The keys of ``config.json`` that decide the mathematics."""
    links: Callable[[ModelConfig], Iterable[Link]]
    """Every tensor of either side, once."""
    read: Callable[[Json], ModelConfig]
    """The stack behind a ``config.json``; KeyError where it lacks a key."""
    defaults: Json = field(default_factory=dict[str, Any])
    """What transformers takes a ``config.json`` to say where it is silent, if that decides."""
    multipliers: Json = field(default_factory=dict[str, Any])
    """Its keys of constant factors, with what silence means; an export makes them do nothing."""
    factors: Callable[[Json], Factors] = lambda _: {}
    """What they scale, for an import to multiply into the weights; ValueError if that cannot be."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Beginnings or parts of names that other writers use, and ours."""
    inside: str = ""
    """The model_type of a model of images and text that has it as its ``text_config``."""
    code: tuple[str, ...] = ()
    """Files of ``outside/`` that travel with it."""


def specs(config: ModelConfig) -> tuple[BlockSpec, ...]:
    """The blocks of a stack."""
    return parse(config.pattern, config.n_layers)


def letters(config: ModelConfig) -> set[str]:
    """The mixers of a stack."""
    return {letter for spec in specs(config) for letter in spec.mixers}


def needs(
    config: ModelConfig, allowed: str, *, at_least: str = "", mlp_alone: bool = False
) -> Iterator[str]:
    """What is wrong with a pattern for a target of these mixers, of which some must be there."""
    found, word = letters(config), f"model.pattern={config.pattern}"
    for letter in sorted(found - set(allowed)):
        yield f"{word} has {letter}, it takes {' and '.join(allowed)}"
    for letter in at_least:
        if letter not in found:
            yield f"{word} has no {letter}, it needs one"
    if any(len(spec.mixers) > 1 for spec in specs(config)):
        yield f"{word} has mixers side by side"
    if not mlp_alone and any(not spec.mixers for spec in specs(config)):
        yield f"{word} has an MLP alone"


def wants(**values: tuple[Any, Any]) -> Iterator[str]:
    """Fields that have one value and should have another, by name with ``__`` for a dot."""
    for name, (value, wanted) in values.items():
        if value != wanted:
            key = name.replace("__", ".")
            yield f"model.{key}={_said(value)}, it needs {_said(wanted)}"


def swiglu(config: ModelConfig) -> Iterator[str]:
    """The MLP must be gated, unless no block has one."""
    if any(spec.mlp for spec in specs(config)):
        yield from wants(mlp__kind=(config.mlp.kind, MlpKind.swiglu))


def plain_mamba2(config: ModelConfig, *, any_width: bool = False) -> Iterator[str]:
    """Mamba-2 must have its norm and, unless ``any_width`` will do, a multiple of the stream's."""
    if "M" in letters(config):
        m = config.mamba2
        yield from wants(mamba2__norm=(m.norm, True))
        if m.width(config.d_model) % config.d_model and not any_width:
            yield f"model.mamba2.inner={m.inner}, it needs a multiple of {config.d_model}"


def alike(config: ModelConfig, *, but: Container[str] = ()) -> Iterator[str]:
    """Where ``A`` and ``W`` stand in one stack, they must be the same, ``but`` for these."""
    if {"A", "W"} <= letters(config):
        windows = _values(config.sliding_window, but)
        for name, a in _values(config.attention, but).items():
            if a != windows[name]:
                yield (
                    f"model.sliding_window.{name}={_said(windows[name])}, it needs "
                    f"model.attention.{name}={_said(a)}"
                )


def shape(config: ModelConfig) -> AttentionConfig:
    """The attention of a stack whose ``A`` and ``W`` are alike."""
    return config.attention if "A" in letters(config) else config.sliding_window


def word(letters_: Iterable[str]) -> str:
    """The shortest word that tiles to these letters."""
    full = list(letters_)
    periods = (p for p in range(1, len(full) + 1) if full == (full[:p] * len(full))[: len(full)])
    return "".join(full[: next(periods)])


def stack(said: Json, kinds: Mapping[str, str], **own: Any) -> ModelConfig:
    """The stack of a ``config.json``: what architectures call alike, and sections of their ``own``.

    ``kinds`` has the letter of each of its ``layer_types``.

    Raises:
        ValueError: it has not one of these for each layer.
    """
    layers, types = said["num_hidden_layers"], said["layer_types"]
    pattern = word(kinds[kind] for kind in types)
    if len(types) != layers:
        raise ValueError(f"num_hidden_layers={layers}, but {len(types)} layer_types")
    common = {
        "norm": NormConfig(eps=said["rms_norm_eps"]),
        "vocab_size": said["vocab_size"],
        "tie_embeddings": said.get("tie_word_embeddings", False),
        "init_std": said.get("initializer_range", 0.02),
    }
    return ModelConfig(
        d_model=said["hidden_size"],
        n_layers=layers,
        pattern=pattern,
        **{**common, **own},
    )


def _values(a: AttentionConfig, but: Container[str]) -> dict[str, Any]:
    """What both sections have, by name."""
    own = {n: getattr(a, n) for n in AttentionConfig.__dataclass_fields__ if n not in but}
    scaling = own.pop("rope_scaling", None)
    return own | {f"rope_scaling.{n}": v for n, v in (vars(scaling) if scaling else {}).items()}


def _said(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
