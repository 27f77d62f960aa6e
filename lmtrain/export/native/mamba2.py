"""Mamba-2 alone, without MLPs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmtrain.export import parts
from lmtrain.export.links import link, within
from lmtrain.export.targets import Json, Target, needs, plain_mamba2, specs
from lmtrain.models.config import Mamba2Config, ModelConfig, NormConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.export.links import Link


def blockers(config: ModelConfig) -> list[str]:
    """Blocks of the mixer and nothing else."""
    found = [*needs(config, "M"), *plain_mamba2(config)]
    if any(spec.mlp for spec in specs(config)):
        found.append(f"model.pattern={config.pattern} has MLPs, it needs small letters")
    return found


def describe(config: ModelConfig) -> Json:
    """The residual stream stays in the dtype of the model."""
    m, d = config.mamba2, config.d_model
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": d,
        "num_hidden_layers": config.n_layers,
        "expand": m.width(d) // d,
        "num_heads": m.heads(d),
        "head_dim": m.head_dim,
        "state_size": m.state_dim,
        "n_groups": m.groups,
        "conv_kernel": m.conv_width,
        "use_conv_bias": m.conv_bias,
        "use_bias": False,
        "chunk_size": 256,
        "hidden_act": "silu",
        "residual_in_fp32": False,
        "layer_norm_epsilon": config.norm.eps,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tie_embeddings,
    }


def links(config: ModelConfig) -> Iterator[Link]:
    """A norm and a mixer a layer."""
    yield from parts.ends(
        config, embedding="backbone.embeddings.weight", last_norm="backbone.norm_f.weight"
    )
    for i in range(config.n_layers):
        ours, theirs = f"blocks.{i}.", f"backbone.layers.{i}."
        norm = parts.norm(config)
        yield link(f"{ours}mixer_norm.weight", f"{theirs}norm.weight", rewrite=norm)
        yield from within(ours + "mixers.0.", theirs + "mixer.", parts.mamba2(config.mamba2))


def read(said: Json) -> ModelConfig:
    """Blocks without MLP."""
    parts.check_steps(said)
    return ModelConfig(
        d_model=said["hidden_size"],
        n_layers=said["num_hidden_layers"],
        pattern="m",
        vocab_size=said["vocab_size"],
        tie_embeddings=said.get("tie_word_embeddings", False),
        mamba2=Mamba2Config(
            expand=said["expand"],
            head_dim=said["head_dim"],
            state_dim=said["state_size"],
            groups=said["n_groups"],
            conv_width=said["conv_kernel"],
            conv_bias=said.get("use_conv_bias", True),
        ),
        norm=NormConfig(eps=said["layer_norm_epsilon"]),
        init_std=said.get("initializer_range", 0.1),
    )


MAMBA2 = Target(
    model_type="mamba2",
    architecture="Mamba2ForCausalLM",
    served_by="vLLM, SGLang",
    blockers=blockers,
    describe=describe,
    links=links,
    read=read,
    defaults={"num_heads": 128},
)
