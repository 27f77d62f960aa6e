"""Mamba-2 and attention, an MLP in every block: Granite 4 without experts; and Granite 3 and 4.1.

The latter are Llama with multipliers, so that an export prefers Llama.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmtrain.export import folding, parts
from lmtrain.export.folding import multiplier
from lmtrain.export.links import filled, link, within
from lmtrain.export.native import attention_only
from lmtrain.export.native.attention_only import LLAMA, whole_heads
from lmtrain.export.positions import positions, rotary
from lmtrain.export.targets import Json, Target, needs, plain_mamba2, specs, stack, swiglu, wants
from lmtrain.models.config import (
    AttentionConfig,
    Mamba2Config,
    MlpConfig,
    ModelConfig,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.export.folding import Factors
    from lmtrain.export.links import Link

LAYER_TYPES = {"A": "attention", "M": "mamba"}
"""The older names, which every version reads."""
KINDS = {"attention": "A", "full_attention": "A", "mamba": "M", "linear_attention": "M"}
OUTPUTS = (
    *(".self_attn.o_proj.weight", ".mamba.out_proj.weight"),
    *(".shared_mlp.output_linear.weight", ".mlp.down_proj.weight"),
)
"""Ends of the names of projections back to the residual stream."""
ONES: Json = dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logits_scaling"), 1.0)
MULTIPLIERS: Json = {**ONES, "attention_multiplier": 1.0}


def blockers(config: ModelConfig) -> list[str]:
    """Plain attention, with or without positions."""
    a = config.attention
    return [
        *needs(config, "AM", at_least="A"),
        *swiglu(config),
        *wants(
            attention__qk_norm=(a.qk_norm, False),
            attention__output_gate=(a.output_gate, False),
            attention__norm_after=(a.norm_after, False),
            attention__partial_rotary_factor=(a.partial_rotary_factor, 1.0),
        ),
        *whole_heads(config),
        *plain_mamba2(config),
    ]


def describe(config: ModelConfig) -> Json:
    """No experts."""
    a, m, d = config.attention, config.mamba2, config.d_model
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": d,
        "intermediate_size": config.mlp.width(d),
        "shared_intermediate_size": config.mlp.width(d),
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "num_hidden_layers": config.n_layers,
        "layer_types": [LAYER_TYPES[spec.mixers[0]] for spec in specs(config)],
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "attention_bias": False,
        "attention_dropout": 0.0,
        **idle(config),
        "mamba_expand": m.width(d) // d,
        **describe_mamba2(m, d),
        "hidden_act": "silu",
        "rms_norm_eps": config.norm.eps,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tie_embeddings,
        "position_embedding_type": "rope" if a.rope else None,
        **rotary(a),
    }


def describe_mamba2(m: Mamba2Config, d_model: int) -> Json:
    """The shape of Mamba-2."""
    return {
        "mamba_n_heads": m.heads(d_model),
        "mamba_d_head": m.head_dim,
        "mamba_d_state": m.state_dim,
        "mamba_n_groups": m.groups,
        "mamba_d_conv": m.conv_width,
        "mamba_conv_bias": m.conv_bias,
        "mamba_proj_bias": False,
        "mamba_chunk_size": 256,
    }


def describe_dense(config: ModelConfig) -> Json:
    """As Llama, with its multipliers."""
    return {**attention_only.describe_llama(config), **idle(config)}


def idle(config: ModelConfig) -> Json:
    """Multipliers that do nothing: that of attention is what we scale its logits by."""
    return {**ONES, "attention_multiplier": config.attention.width(config.d_model) ** -0.5}


def links(config: ModelConfig) -> Iterator[Link]:
    """The MLP keeps gate and up in one matrix, as ours does."""
    norm, hidden, d = parts.norm(config), config.mlp.width(config.d_model), config.d_model
    yield from parts.ends(config)
    for i, spec in enumerate(specs(config)):
        ours, theirs = f"blocks.{i}.", f"model.layers.{i}."
        yield link(f"{ours}mixer_norm.weight", f"{theirs}input_layernorm.weight", rewrite=norm)
        if spec.mixers == ("A",):
            mixer = within("", "self_attn.", parts.attention(config.attention, config))
        else:
            mixer = within("", "mamba.", parts.mamba2(config.mamba2))
        yield from within(ours + "mixers.0.", theirs, mixer)
        second, mlp = f"{theirs}post_attention_layernorm.weight", f"{theirs}shared_mlp."
        if spec.mlp:
            yield link(f"{ours}mlp_norm.weight", second, rewrite=norm)
            yield link(f"{ours}mlp.in_proj.weight", f"{mlp}input_linear.weight")
            yield link(f"{ours}mlp.out_proj.weight", f"{mlp}output_linear.weight")
        else:
            yield filled(second, 1.0, d)
            yield filled(f"{mlp}input_linear.weight", 0.0, 2 * hidden, d)
            yield filled(f"{mlp}output_linear.weight", 0.0, d, hidden)


def read(said: Json) -> ModelConfig:
    """A model without experts; `describe` is compared with the rest."""
    parts.check_steps(said)
    d, heads = said["hidden_size"], said["num_attention_heads"]
    rope = said.get("position_embedding_type") == "rope"
    width = said.get("mamba_d_head", "auto")
    if width == "auto":
        width = said["mamba_expand"] * d // said["mamba_n_heads"]
    return stack(
        said,
        KINDS,
        attention=AttentionConfig(
            heads=heads,
            kv_heads=said.get("num_key_value_heads") or heads,
            head_dim=d // heads,
            rope=rope,
            **positions(said),
            qk_norm=False,
        ),
        mamba2=Mamba2Config(
            expand=said["mamba_expand"],
            head_dim=width,
            state_dim=said["mamba_d_state"],
            groups=said["mamba_n_groups"],
            conv_width=said["mamba_d_conv"],
            conv_bias=said.get("mamba_conv_bias", True),
        ),
        mlp=MlpConfig(hidden=said["shared_intermediate_size"]),
    )


def factors(said: Json) -> Factors:
    """All scale what a projection gives: queries, and what is added to the residual stream."""
    width = said.get("head_dim") or said["hidden_size"] // said["num_attention_heads"]
    residual = multiplier(said, "residual_multiplier")
    return {
        **folding.ends(
            embedding=multiplier(said, "embedding_multiplier"),
            logits=1 / multiplier(said, "logits_scaling"),
            tied=said.get("tie_word_embeddings", False),
            last_norm="model.norm.weight",
        ),
        ".self_attn.q_proj.weight": multiplier(said, "attention_multiplier") * width**0.5,
        **dict.fromkeys(OUTPUTS, residual),
    }


GRANITE = Target(
    model_type="granite",
    architecture="GraniteForCausalLM",
    served_by="vLLM, SGLang",
    blockers=LLAMA.blockers,
    describe=describe_dense,
    links=LLAMA.links,
    read=LLAMA.read,
    defaults=LLAMA.defaults,
    multipliers=MULTIPLIERS,
    factors=factors,
)
GRANITE_HYBRID = Target(
    model_type="granitemoehybrid",
    architecture="GraniteMoeHybridForCausalLM",
    served_by="vLLM, SGLang",
    blockers=blockers,
    describe=describe,
    links=links,
    read=read,
    defaults={"num_local_experts": 8, "rope_theta": 1e4, "mamba_n_heads": 128},
    multipliers=MULTIPLIERS,
    factors=factors,
)
