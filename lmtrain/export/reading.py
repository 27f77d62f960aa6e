"""What a ``config.json`` says, as a stack of ours: understood whole, or refused by name."""

from __future__ import annotations

import json
from math import isclose
from typing import TYPE_CHECKING, Any

from lmtrain import config as configuration
from lmtrain.export.custom import CUSTOM
from lmtrain.export.native import NATIVE

if TYPE_CHECKING:
    from pathlib import Path

    from lmtrain.export.targets import Json, Target
    from lmtrain.models.config import ModelConfig

FREE = {
    *("initializer_range", "attention_dropout", "chunk_size", "mamba_chunk_size"),
    *("residual_in_fp32", "intermediate_size", "num_experts_per_tok"),
    "time_step_min",  # transformers clamps by it; servers and trainers only initialise by it
    *("layer_types", "rope_parameters", "rope_scaling", "rope_theta"),  # judged in `read`
    *("partial_rotary_factor", "num_key_value_heads", "head_dim", "position_embedding_type"),
    *("use_sliding_window", "mamba_d_ssm", "mamba_d_head"),
    *("stack", "blocks", "auto_map"),
}
"""Keys of a ``config.json`` that may differ from what an export would write."""

TARGETS = {target.model_type: target for target in (*NATIVE, CUSTOM)}
SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim"),
    *("num_heads", "expand", "n_groups", "mamba_num_heads", "mamba_head_dim", "mamba_expand"),
    *("mamba_d_ssm", "mamba_n_heads", "mamba_n_groups", "mamba_d_state"),
    "max_position_embeddings",
)
"""Keys whose values are computed with before the stack is checked; null is none."""
AROUND = {target.inside: target for target in NATIVE if target.inside}


def read_config(folder: Path) -> Json:
    """``config.json``.

    Raises:
        ValueError: it is missing or no object.
    """
    path = folder / "config.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: give a folder that transformers loads") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(said, dict) or not isinstance(said.get("model_type"), str | None):
        raise ValueError(f"{path} is not a configuration of transformers")
    return said


def language(said: Json, folder: Path) -> Json:
    """What a model of images and text says of its language model; any other, as it is.

    Raises:
        ValueError: it says nothing of it.
    """
    if said.get("model_type") not in AROUND:
        return said
    inner, target = said.get("text_config"), AROUND[said["model_type"]]
    if not isinstance(inner, dict):
        raise ValueError(f"{folder}/config.json has no text_config: it names no language model")
    tied = said.get("tie_word_embeddings", False)
    return {"model_type": target.model_type, "tie_word_embeddings": tied, **inner}


def find_target(said: Json, folder: Path) -> Target:
    """The target that the folder is of.

    Raises:
        ValueError: lmtrain does not have it.
    """
    kind = said.get("model_type")
    if kind in TARGETS:
        return TARGETS[kind]
    code = ", and code of a folder is never run" if "auto_map" in said else ""
    raise ValueError(
        f"{folder} is of model_type {kind}{code}: lmtrain imports {', '.join((*TARGETS, *AROUND))}"
    )


def read_model(target: Target, said: Json, folder: Path) -> ModelConfig:
    """The stack that a ``config.json`` describes.

    Whatever the target would write in another way is something that lmtrain does not compute, but
    for multipliers, which go into the weights.

    Raises:
        ValueError: the configuration lacks a key, or asks for what lmtrain does not have.
    """
    whole = completed(target, said)
    for key in SIZES:
        if (size := whole.get(key)) is not None and (type(size) is not int or size < 1):
            raise ValueError(
                f"{folder}/config.json says {key}={size}: it must be a whole number above 0"
            )
    try:
        model = target.read(whole)
        configuration.require(model.check())
        target.factors(whole)
    except KeyError as error:
        raise ValueError(f"{folder}/config.json does not say {error}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder}/config.json: {error}") from error
    free = FREE | target.multipliers.keys()
    for key, value in target.describe(model).items():
        if key in whole and key not in free and not same(whole[key], value):
            says = "says" if key in said else "is silent, which means"
            raise ValueError(
                f"{folder}/config.json {says} {key}={whole[key]}: of {target.model_type}, lmtrain "
                f"has {key}={value}"
            )
    return model


def completed(target: Target, said: Json) -> Json:
    """A ``config.json`` with what its silence means."""
    return {**target.defaults, **target.multipliers, **said}


def scaling(target: Target, model: ModelConfig, said: Json) -> list[str]:
    """The multipliers of a ``config.json`` that do something."""
    whole, idle = completed(target, said), target.describe(model)
    keys = (key for key in target.multipliers if whole[key] is not None)
    return [f"{key}={whole[key]}" for key in keys if not same(whole[key], idle[key])]


def same(theirs: Any, ours: Any) -> bool:
    """Whether two values of ``config.json`` mean the same."""
    if isinstance(ours, float) and isinstance(theirs, int | float):
        return isclose(theirs, ours, rel_tol=1e-6)
    return theirs == ours
