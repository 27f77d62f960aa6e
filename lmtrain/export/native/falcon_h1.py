"""Attention and Mamba-2 side by side, then an MLP, in every block: Falcon-H1."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from lmtrain.export import folding, parts
from lmtrain.export.folding import multiplier, multipliers
from lmtrain.export.links import HALVED, filled, link, within
from lmtrain.export.native.attention_only import describe_llama
from lmtrain.export.native.granite import describe_mamba2
from lmtrain.export.positions import positions
from lmtrain.export.targets import Json, Target, specs, stack, swiglu, wants
from lmtrain.models.config import AttentionConfig, Mamba2Config, MlpConfig, ModelConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmtrain.export.folding import Factors
    from lmtrain.export.links import Link

LETTERS = ["A", "M"]
LAST_NORM = "model.final_layernorm.weight"
MULTIPLIERS: Json = {
    **dict.fromkeys(("embedding_multiplier", "lm_head_multiplier", "key_multiplier"), 1.0),
    **dict.fromkeys(("attention_in_multiplier", "attention_out_multiplier"), 1.0),
    **dict.fromkeys(("ssm_in_multiplier", "ssm_out_multiplier"), 1.0),
    **{"ssm_multipliers": [1.0] * 5, "mlp_multipliers": [1.0] * 2},
}
"""What an export says, and what silence means."""


def blockers(config: ModelConfig) -> list[str]:
    """Plain attention with positions beside Mamba-2, their outputs as they are."""
    a, found = config.attention, list[str]()
    if any(sorted(spec.mixers) != LETTERS for spec in specs(config)):
        found.append(f"model.pattern={config.pattern} has blocks that are not [AM], it takes [AM]")
    return [
        *found,
        *swiglu(config),
        *wants(
            branch_norm=(config.branch_norm, False),
            attention__rope=(a.rope, True),
            attention__qk_norm=(a.qk_norm, False),
            attention__output_gate=(a.output_gate, False),
            attention__partial_rotary_factor=(a.partial_rotary_factor, 1.0),
        ),
    ]


def describe(config: ModelConfig) -> Json:
    """Every multiplier is one."""
    m, d = config.mamba2, config.d_model
    return {
        **describe_llama(config),
        "mamba_d_ssm": m.width(d),
        **describe_mamba2(m, d),
        "mamba_rms_norm": m.norm,
        **({"mamba_norm_before_gate": False} if m.norm else {}),
        "projectors_bias": False,
        **MULTIPLIERS,
    }


def links(config: ModelConfig) -> Iterator[Link]:
    """It adds what stands side by side, of which we take the mean."""
    norm = parts.norm(config)
    yield from parts.ends(config, last_norm=LAST_NORM)
    for i, spec in enumerate(specs(config)):
        ours, theirs = f"blocks.{i}.", f"model.layers.{i}."
        yield link(f"{ours}mixer_norm.weight", f"{theirs}input_layernorm.weight", rewrite=norm)
        mixers = {
            "A": within("", "self_attn.", parts.attention(config.attention, config)),
            "M": within("", "mamba.", parts.mamba2(config.mamba2)),
        }
        for letter, mixer in mixers.items():
            place = spec.mixers.index(letter)
            for each in within(f"{ours}mixers.{place}.", theirs, mixer):
                back = each.ours[0].endswith("out_proj.weight")
                yield replace(each, rewrite=HALVED) if back else each
        second, mlp = f"{theirs}pre_ff_layernorm.weight", f"{theirs}feed_forward."
        if spec.mlp:
            yield link(f"{ours}mlp_norm.weight", second, rewrite=norm)
            yield from within(f"{ours}mlp.", mlp, parts.mlp(config))
        else:
            yield filled(second, 1.0, config.d_model)
            yield from within("", mlp, parts.silent_mlp(config))


def read(said: Json) -> ModelConfig:
    """Every block is the same."""
    parts.check_steps(said)
    d, heads, n = said["hidden_size"], said["num_attention_heads"], said["num_hidden_layers"]
    inner, width = inner_width(said), said["mamba_d_head"]
    return stack(
        {**said, "layer_types": ["hybrid"] * n},
        {"hybrid": "[AM]"},
        branch_norm=False,
        attention=AttentionConfig(
            heads=heads,
            kv_heads=said["num_key_value_heads"] or heads,
            head_dim=said.get("head_dim") or d // heads,
            **positions(said),
            qk_norm=False,
        ),
        mamba2=Mamba2Config(
            inner=inner,
            head_dim=inner // said["mamba_n_heads"] if width == "auto" else width,
            state_dim=said["mamba_d_state"],
            groups=said["mamba_n_groups"],
            conv_width=said["mamba_d_conv"],
            conv_bias=said["mamba_conv_bias"],
            norm=said["mamba_rms_norm"],
        ),
        mlp=MlpConfig(hidden=said["intermediate_size"]),
    )


def inner_width(said: Json) -> int:
    """Of Mamba-2."""
    width = said["mamba_d_ssm"]
    return said["mamba_expand"] * said["hidden_size"] if width is None else width


def factors(said: Json) -> Factors:
    """All scale what a projection reads or gives, before biases, convolutions and gates."""
    into, out, key = (
        multiplier(said, f"{name}_multiplier") for name in ("attention_in", "attention_out", "key")
    )
    inner, states = inner_width(said), said["mamba_n_groups"] * said["mamba_d_state"]
    sizes = torch.tensor([inner, inner, states, states, said["mamba_n_heads"]])
    rows = torch.tensor(multipliers(said, "ssm_multipliers", 5)).repeat_interleave(sizes)
    gate, down = multipliers(said, "mlp_multipliers", 2)
    return {
        **folding.ends(
            embedding=multiplier(said, "embedding_multiplier"),
            logits=multiplier(said, "lm_head_multiplier"),
            tied=said.get("tie_word_embeddings", False),
            last_norm=LAST_NORM,
        ),
        ".self_attn.q_proj.weight": into,
        ".self_attn.k_proj.weight": into * key,
        ".self_attn.v_proj.weight": into,
        ".self_attn.o_proj.weight": out,
        ".mamba.in_proj.weight": multiplier(said, "ssm_in_multiplier") * rows[:, None],
        ".mamba.out_proj.weight": multiplier(said, "ssm_out_multiplier"),
        ".feed_forward.gate_proj.weight": gate,
        ".feed_forward.down_proj.weight": down,
    }


FALCON_H1 = Target(
    model_type="falcon_h1",
    architecture="FalconH1ForCausalLM",
    served_by="vLLM, SGLang",
    blockers=blockers,
    describe=describe,
    links=links,
    read=read,
    defaults={
        **{"num_key_value_heads": 8, "rope_theta": 1e4, "mamba_conv_bias": True},
        **{"mamba_d_ssm": 1024, "mamba_expand": 2, "mamba_d_head": "auto"},
        **{"mamba_rms_norm": False, "mamba_norm_before_gate": True},
    },
    multipliers=MULTIPLIERS,
    factors=factors,
)
