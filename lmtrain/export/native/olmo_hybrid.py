"""Gated DeltaNet with norms before, attention with norms after: OLMo Hybrid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmtrain.export import parts
from lmtrain.export.links import convolutions, filled, link, rows, within
from lmtrain.export.native.attention_only import whole_heads
from lmtrain.export.native.qwen3_5 import KINDS, LAYER_TYPES, describe_deltanet, read_deltanet
from lmtrain.export.positions import parameters, positions
from lmtrain.export.targets import Json, Target, needs, specs, stack, swiglu, wants
from lmtrain.models.config import (
    AttentionConfig,
    GatedDeltaNetConfig,
    MlpConfig,
    ModelConfig,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.export.links import Link

GATED_NORM_EPS = 1e-5
"""Fixed in the architecture, and one number for all norms here."""


def blockers(config: ModelConfig) -> list[str]:
    """Attention normalises all heads together, and its block what it gives."""
    a, g = config.attention, config.gated_deltanet
    found = [
        *needs(config, "AG", at_least="AG"),
        *swiglu(config),
        *wants(
            attention__qk_norm=(a.qk_norm, True),
            attention__qk_norm_joint=(a.qk_norm_joint, True),
            attention__norm_after=(a.norm_after, True),
            attention__output_gate=(a.output_gate, False),
            attention__partial_rotary_factor=(a.partial_rotary_factor, 1.0),
            norm__eps=(config.norm.eps, GATED_NORM_EPS),
        ),
        *whole_heads(config),
    ]
    if g.beta_scale not in (1.0, 2.0):
        found.append(f"model.gated_deltanet.beta_scale={g.beta_scale}, it needs 1 or 2")
    return found


def describe(config: ModelConfig) -> Json:
    """Without positions, the base of the rotation is null."""
    a, g = config.attention, config.gated_deltanet
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.mlp.width(config.d_model),
        "num_hidden_layers": config.n_layers,
        "layer_types": [LAYER_TYPES[spec.mixers[0]] for spec in specs(config)],
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "attention_bias": False,
        "attention_dropout": 0.0,
        **describe_deltanet(g),
        "linear_allow_neg_eigval": g.beta_scale == 2.0,  # noqa: PLR2004
        "hidden_act": "silu",
        "rms_norm_eps": config.norm.eps,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tie_embeddings,
        "rope_parameters": {**parameters(a), **({} if a.rope else {"rope_theta": None})},
    }


def links(config: ModelConfig) -> Iterator[Link]:
    """Names as the published checkpoints have them."""
    norm = parts.norm(config)
    yield from parts.ends(config)
    for i, spec in enumerate(specs(config)):
        ours, theirs = f"blocks.{i}.", f"model.layers.{i}."
        if spec.mixers == ("A",):
            mixer = within("", "self_attn.", parts.attention(config.attention, config))
            norms = ("post_attention_layernorm", "post_feedforward_layernorm")
        else:
            mixer = within("", "linear_attn.", gated_deltanet(config.gated_deltanet))
            norms = ("attention_layer_norm", "feedforward_layer_norm")
        yield from within(ours + "mixers.0.", theirs, mixer)
        yield link(f"{ours}mixer_norm.weight", f"{theirs}{norms[0]}.weight", rewrite=norm)
        if spec.mlp:
            yield link(f"{ours}mlp_norm.weight", f"{theirs}{norms[1]}.weight", rewrite=norm)
            yield from within(ours + "mlp.", theirs + "mlp.", parts.mlp(config))
        else:
            yield filled(f"{theirs}{norms[1]}.weight", 1.0, config.d_model)
            yield from within("", theirs + "mlp.", parts.silent_mlp(config))


def gated_deltanet(g: GatedDeltaNetConfig) -> Iterator[Link]:
    """A projection, and a convolution, of its own for each of ``q k v``."""
    keys, values = g.key_heads * g.key_dim, g.value_heads * g.value_dim
    names = [f"{name}_proj.weight" for name in ("q", "k", "v", "g", "b", "a")]
    sizes = (keys, keys, values, values, g.value_heads, g.value_heads)
    yield link("in_proj.weight", *names, rewrite=rows(*sizes))
    convs = [f"{name}_conv1d.weight" for name in ("q", "k", "v")]
    yield link("conv_weight", *convs, rewrite=convolutions(keys, keys, values))
    for name in ("A_log", "dt_bias"):
        yield link(name, name)
    yield link("norm.weight", "o_norm.weight")
    yield link("out_proj.weight", "o_proj.weight")


def read(said: Json) -> ModelConfig:
    """Its norms are plain, its attention without gate."""
    heads = said["num_attention_heads"]
    rope = (said.get("rope_parameters") or {}).get("rope_theta", 1e4) is not None
    return stack(
        said,
        KINDS,
        attention=AttentionConfig(
            heads=heads,
            kv_heads=said.get("num_key_value_heads") or heads,
            head_dim=said["hidden_size"] // heads,
            rope=rope,
            **(positions(said) if rope else {}),
            qk_norm_joint=True,
            norm_after=True,
        ),
        gated_deltanet=read_deltanet(
            said,
            beta_scale=2.0 if said["linear_allow_neg_eigval"] else 1.0,
        ),
        mlp=MlpConfig(hidden=said["intermediate_size"]),
    )


OLMO_HYBRID = Target(
    model_type="olmo_hybrid",
    architecture="OlmoHybridForCausalLM",
    served_by="vLLM",
    blockers=blockers,
    describe=describe,
    links=links,
    read=read,
    defaults={"rope_theta": 1e4, "linear_conv_kernel_dim": 4, "linear_allow_neg_eigval": True},
)
