"""The target of every stack: our own code, which travels in the folder."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmtrain.config import require
from lmtrain.export.links import link
from lmtrain.export.targets import Json, Target, specs
from lmtrain.models.config import ModelConfig
from lmtrain.models.decoder import Decoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.export.links import Link

ATTENTION = ("attention", "sliding_window")
RENAMED = (("embedding.", "embed_tokens."), ("blocks.", "layers."))


def describe(config: ModelConfig) -> Json:
    """The model section itself, every width said."""
    whole = config.explicit()
    blocks = [{"mixers": "".join(spec.mixers), "mlp": spec.mlp} for spec in specs(config)]
    stack = asdict(whole)
    for section in (stack["mlp"], *(stack[name]["rope_scaling"] for name in ATTENTION)):
        section["kind"] = str(section["kind"])
    return {
        "stack": stack,
        "blocks": blocks,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "tie_word_embeddings": config.tie_embeddings,
        "auto_map": {
            "AutoConfig": "configuration_lmtrain.LmtrainConfig",
            "AutoModel": "modeling_lmtrain.LmtrainModel",
            "AutoModelForCausalLM": "modeling_lmtrain.LmtrainForCausalLM",
        },
    }


def links(config: ModelConfig) -> Iterator[Link]:
    """The same tensors; two names that transformers expects."""
    with torch.device("meta"):
        model = Decoder(config)
    for name, _ in model.named_parameters():
        theirs = f"model.{name}"
        for old, new in RENAMED:
            if name.startswith(old):
                theirs = f"model.{new}{name.removeprefix(old)}"
        yield link(name, "lm_head.weight" if name == "head.weight" else theirs)


def read(said: Json) -> ModelConfig:
    """The model section, checked like one that was typed; its embedding may have been resized."""
    stack = {**said["stack"], "vocab_size": said["vocab_size"]}
    try:
        merged: Any = OmegaConf.merge(OmegaConf.structured(ModelConfig), stack)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(f"its stack is not of this version: {error}") from error
    assert isinstance(config, ModelConfig)
    require(config.check())
    return config


CUSTOM = Target(
    model_type="lmtrain",
    architecture="LmtrainForCausalLM",
    served_by="transformers with trust_remote_code=True; vLLM and SGLang need a plugin",
    blockers=lambda _: [],
    describe=describe,
    links=links,
    read=read,
    code=("configuration_lmtrain.py", "modeling_lmtrain.py"),
)
