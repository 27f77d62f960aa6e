"""Mamba-2, attention without positions and MLPs, each a layer of its own: Nemotron-H."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmtrain.export import parts
from lmtrain.export.links import link, within
from lmtrain.export.targets import Json, Target, needs, plain_mamba2, specs, wants, word
from lmtrain.models.config import (
    AttentionConfig,
    Mamba2Config,
    MlpConfig,
    MlpKind,
    ModelConfig,
    NormConfig,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.export.links import Link

SYMBOLS = {"A": "*", "M": "M"}
"""The letters of its own pattern word, in which an MLP is ``-`` too."""
KINDS = {
    **dict.fromkeys(("*", "attention", "full_attention"), "a"),
    **dict.fromkeys(("M", "mamba", "linear_attention"), "m"),
    **dict.fromkeys(("-", "mlp"), "-"),
}
NO_FLOOR = 1e-30
"""Of the step size, which transformers clamps from below by what only initialises elsewhere."""


def blockers(config: ModelConfig) -> list[str]:
    """Plain attention that knows no positions; MLPs without gate."""
    a = config.attention
    found = [
        *needs(config, "AM", at_least="A", mlp_alone=True),
        *wants(
            attention__rope=(a.rope, False),
            attention__qk_norm=(a.qk_norm, False),
            attention__output_gate=(a.output_gate, False),
            attention__norm_after=(a.norm_after, False),
        ),
        *plain_mamba2(config, any_width=True),
    ]
    if any(spec.mlp for spec in specs(config)):
        found += wants(mlp__kind=(config.mlp.kind, MlpKind.relu2))
    return found


def layers(config: ModelConfig) -> Iterator[tuple[int, str]]:
    """Its layers: the block each comes from, and its symbol."""
    for i, spec in enumerate(specs(config)):
        if spec.mixers:
            yield i, SYMBOLS[spec.mixers[0]]
        if spec.mlp:
            yield i, "-"


def describe(config: ModelConfig) -> Json:
    """The pattern word is what servers read; tied embeddings become two equal tensors."""
    a, m, d = config.attention, config.mamba2, config.d_model
    pattern = "".join(symbol for _, symbol in layers(config))
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": d,
        "intermediate_size": config.mlp.width(d),
        "num_hidden_layers": len(pattern),
        "hybrid_override_pattern": pattern,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.width(d),
        "attention_bias": False,
        "attention_dropout": 0.0,
        "sliding_window": None,
        "mlp_hidden_act": "relu2",
        "mlp_bias": False,
        "mamba_num_heads": m.heads(d),
        "mamba_head_dim": m.head_dim,
        "ssm_state_size": m.state_dim,
        "n_groups": m.groups,
        "conv_kernel": m.conv_width,
        "use_conv_bias": m.conv_bias,
        "mamba_proj_bias": False,
        "use_bias": False,
        "mamba_hidden_act": "silu",
        "chunk_size": 128,
        "time_step_min": NO_FLOOR,
        "residual_in_fp32": False,
        "layer_norm_epsilon": config.norm.eps,
        "initializer_range": config.init_std,
        "tie_word_embeddings": False,
    }


def links(config: ModelConfig) -> Iterator[Link]:
    """A norm and a mixer a layer."""
    norm = parts.norm(config)
    yield from parts.ends(
        config,
        embedding="backbone.embeddings.weight",
        last_norm="backbone.norm_f.weight",
        can_tie=False,
    )
    for at, (i, symbol) in enumerate(layers(config)):
        ours, theirs = f"blocks.{i}.", f"backbone.layers.{at}."
        name, inside = ("mlp_norm", "mlp.") if symbol == "-" else ("mixer_norm", "mixers.0.")
        yield link(f"{ours}{name}.weight", f"{theirs}norm.weight", rewrite=norm)
        match symbol:
            case "*":
                mixer = parts.attention(config.attention, config)
            case "M":
                mixer = parts.mamba2(config.mamba2)
            case _:
                mixer = parts.mlp(config)
        yield from within(ours + inside, theirs + "mixer.", mixer)


def read(said: Json) -> ModelConfig:
    """A block for each of its layers."""
    parts.check_steps(said)
    kinds = said.get("layers_block_type") or list(said["hybrid_override_pattern"])
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"it has a layer of kind {kind}: lmtrain has no such block")
    return ModelConfig(
        d_model=said["hidden_size"],
        n_layers=len(kinds),
        pattern=word(KINDS[kind] for kind in kinds),
        vocab_size=said["vocab_size"],
        tie_embeddings=False,
        attention=AttentionConfig(
            heads=said["num_attention_heads"],
            kv_heads=said["num_key_value_heads"],
            head_dim=said["head_dim"],
            rope=False,
            qk_norm=False,
        ),
        mamba2=Mamba2Config(
            inner=said["mamba_num_heads"] * said["mamba_head_dim"],
            head_dim=said["mamba_head_dim"],
            state_dim=said["ssm_state_size"],
            groups=said["n_groups"],
            conv_width=said["conv_kernel"],
            conv_bias=said.get("use_conv_bias", True),
        ),
        mlp=MlpConfig(kind=MlpKind.relu2, hidden=said["intermediate_size"]),
        norm=NormConfig(eps=said["layer_norm_epsilon"]),
        init_std=said.get("initializer_range", 0.02),
    )


NEMOTRON = Target(
    model_type="nemotron_h",
    architecture="NemotronHForCausalLM",
    served_by="vLLM, SGLang",
    blockers=blockers,
    describe=describe,
    links=links,
    read=read,
    renamed=(("model.", "backbone."),),
)
