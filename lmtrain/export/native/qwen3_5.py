"""Gated DeltaNet and gated attention with zero-centred norms: Qwen3.5."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmtrain.export import parts
from lmtrain.export.links import (
    CONV,
    DOUBLED,
    SAME,
    filled,
    gated_queries,
    link,
    rows,
    within,
)
from lmtrain.export.positions import positions, rotary
from lmtrain.export.targets import (
    Json,
    Target,
    needs,
    specs,
    stack,
    swiglu,
    wants,
)
from lmtrain.models.config import (
    AttentionConfig,
    GatedDeltaNetConfig,
    MlpConfig,
    ModelConfig,
    NormConfig,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.export.links import Link

LAYER_TYPES = {"A": "full_attention", "G": "linear_attention"}
KINDS = {kind: letter for letter, kind in LAYER_TYPES.items()}


def blockers(config: ModelConfig) -> list[str]:
    """Attention must be the architecture's own, its gate may be missing; beta below one."""
    a, g = config.attention, config.gated_deltanet
    return [
        *needs(config, "AG", at_least="A"),
        *swiglu(config),
        *wants(
            attention__rope=(a.rope, True),
            attention__qk_norm=(a.qk_norm, True),
            attention__qk_norm_joint=(a.qk_norm_joint, False),
            attention__norm_after=(a.norm_after, False),
            gated_deltanet__beta_scale=(g.beta_scale, 1.0),
        ),
    ]


def describe(config: ModelConfig) -> Json:
    """Sections of multimodal positions are said, and all equal for text."""
    a = config.attention
    width = a.width(config.d_model)
    pairs = a.rotary_width(config.d_model) // 2
    third = pairs // 3
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.mlp.width(config.d_model),
        "num_hidden_layers": config.n_layers,
        "layer_types": [LAYER_TYPES[spec.mixers[0]] for spec in specs(config)],
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": width,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_output_gate": True,
        **describe_deltanet(config.gated_deltanet),
        "hidden_act": "silu",
        "rms_norm_eps": config.norm.eps,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tie_embeddings,
        **rotary(
            a,
            mrope_interleaved=True,
            mrope_section=[pairs - 2 * third, third, third],
        ),
        "partial_rotary_factor": a.partial_rotary_factor,
    }


def describe_deltanet(g: GatedDeltaNetConfig) -> Json:
    """The shape of Gated DeltaNet."""
    return {
        "linear_num_key_heads": g.key_heads,
        "linear_num_value_heads": g.value_heads,
        "linear_key_head_dim": g.key_dim,
        "linear_value_head_dim": g.value_dim,
        "linear_conv_kernel_dim": g.conv_width,
    }


def links(config: ModelConfig) -> Iterator[Link]:
    """An attention without gate gets one that is always one half, and twice the output."""
    norm, a = parts.norm(config, centered=True), config.attention
    yield from parts.ends(config, centered=True)
    for i, spec in enumerate(specs(config)):
        ours, theirs = f"blocks.{i}.", f"model.layers.{i}."
        yield link(f"{ours}mixer_norm.weight", f"{theirs}input_layernorm.weight", rewrite=norm)
        if spec.mixers == ("A",):
            mixer = within("", "self_attn.", attention(a, config))
        else:
            mixer = within("", "linear_attn.", gated_deltanet(config.gated_deltanet))
        yield from within(ours + "mixers.0.", theirs, mixer)
        second = f"{theirs}post_attention_layernorm.weight"
        if spec.mlp:
            yield link(f"{ours}mlp_norm.weight", second, rewrite=norm)
            yield from within(ours + "mlp.", theirs + "mlp.", parts.mlp(config))
        else:
            yield filled(second, 0.0, config.d_model)
            yield from within("", theirs + "mlp.", parts.silent_mlp(config))


def attention(a: AttentionConfig, config: ModelConfig) -> Iterator[Link]:
    """Queries and gates interleaved by head."""
    width = a.width(config.d_model)
    fused = gated_queries(a.heads, width, a.kv_heads * width, gated=a.output_gate)
    names = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
    yield link("in_proj.weight", *names, rewrite=fused)
    yield link("out_proj.weight", "o_proj.weight", rewrite=SAME if a.output_gate else DOUBLED)
    for name in ("q_norm.weight", "k_norm.weight"):
        yield link(name, name, rewrite=parts.norm(config, centered=True))


def gated_deltanet(g: GatedDeltaNetConfig) -> Iterator[Link]:
    """The rows of our fused projection in the same order."""
    qkv, values, heads = parts.delta_sizes(g)
    names = [f"in_proj_{name}.weight" for name in ("qkv", "z", "b", "a")]
    yield link("in_proj.weight", *names, rewrite=rows(qkv, values, heads, heads))
    yield link("conv_weight", "conv1d.weight", rewrite=CONV)
    for name in ("A_log", "dt_bias", "norm.weight", "out_proj.weight"):
        yield link(name, name)


def read(said: Json) -> ModelConfig:
    """Gated attention and zero-centred norms, as the architecture has them."""
    return stack(
        said,
        KINDS,
        attention=AttentionConfig(
            heads=said["num_attention_heads"],
            kv_heads=said["num_key_value_heads"],
            head_dim=said["head_dim"],
            **positions(said, of_parts=True),
            output_gate=True,
        ),
        gated_deltanet=read_deltanet(said),
        mlp=MlpConfig(hidden=said["intermediate_size"]),
        norm=NormConfig(eps=said["rms_norm_eps"], zero_centered=True),
    )


def read_deltanet(said: Json, *, beta_scale: float = 1.0) -> GatedDeltaNetConfig:
    """What `describe_deltanet` said."""
    return GatedDeltaNetConfig(
        key_heads=said["linear_num_key_heads"],
        value_heads=said["linear_num_value_heads"],
        key_dim=said["linear_key_head_dim"],
        value_dim=said["linear_value_head_dim"],
        conv_width=said["linear_conv_kernel_dim"],
        beta_scale=beta_scale,
    )


QWEN3_5 = Target(
    model_type="qwen3_5_text",
    architecture="Qwen3_5ForCausalLM",
    served_by="vLLM; SGLang where attention comes at a fixed interval",
    blockers=blockers,
    describe=describe,
    links=links,
    read=read,
    defaults={"partial_rotary_factor": 0.25, "rope_theta": 1e4},
    renamed=(("model.language_model.", "model."),),
    inside="qwen3_5",
)
