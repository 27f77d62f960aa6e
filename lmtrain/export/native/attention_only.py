"""Stacks of attention alone: Llama, Mistral (all windows), Qwen3 (head norms), OLMo 3."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lmtrain.export import parts
from lmtrain.export.links import filled, link, within
from lmtrain.export.positions import parameters, positions, rotary
from lmtrain.export.targets import (
    Json,
    Target,
    alike,
    letters,
    needs,
    shape,
    specs,
    stack,
    swiglu,
    wants,
)
from lmtrain.models.config import (
    AttentionConfig,
    MlpConfig,
    ModelConfig,
    SlidingWindowConfig,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lmtrain.export.links import Link

LAYER_TYPES = {"A": "full_attention", "W": "sliding_attention"}
KINDS = {kind: letter for letter, kind in LAYER_TYPES.items()}


def blockers(config: ModelConfig, *, allowed: str, qk_norm: bool, after: bool) -> list[str]:
    """Attention of one shape with rotary positions, without gates."""
    a, section = shape(config), "attention" if "A" in letters(config) else "sliding_window"
    fields = {
        "rope": (a.rope, True),
        "partial_rotary_factor": (a.partial_rotary_factor, 1.0),
        "qk_norm": (a.qk_norm, qk_norm),
        "output_gate": (a.output_gate, False),
        "norm_after": (a.norm_after, after),
        "qk_norm_joint": (a.qk_norm_joint, after),
    }
    found = [
        *needs(config, allowed),
        *swiglu(config),
        *wants(**{f"{section}__{name}": pair for name, pair in fields.items()}),
        *alike(config, but=("rope_theta", "rope_scaling") if after else ()),
    ]
    if after:
        found += whole_heads(config)
    return found


def whole_heads(config: ModelConfig) -> Iterator[str]:
    """Where the architecture has no width of a head of its own."""
    a = shape(config)
    if a.width(config.d_model) * a.heads != config.d_model:
        section = "attention" if "A" in letters(config) else "sliding_window"
        yield f"model.{section}.head_dim={a.head_dim}, it needs d_model / heads"


def describe(config: ModelConfig) -> Json:
    """What all of them say."""
    a = shape(config)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.mlp.width(config.d_model),
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.width(config.d_model),
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rms_norm_eps": config.norm.eps,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tie_embeddings,
        **rotary(a),
    }


def describe_llama(config: ModelConfig) -> Json:
    """Full attention."""
    return {**describe(config), "mlp_bias": False}


def describe_mistral(config: ModelConfig) -> Json:
    """Every block sees a window, or none does."""
    window = config.sliding_window.window if "W" in letters(config) else None
    return {**describe(config), "sliding_window": window}


def describe_qwen3(config: ModelConfig) -> Json:
    """Windows where the pattern says so."""
    windows = "W" in letters(config)
    return {
        **describe(config),
        "use_sliding_window": windows,
        **({"sliding_window": config.sliding_window.window} if windows else {}),
        "layer_types": [LAYER_TYPES[spec.mixers[0]] for spec in specs(config)],
    }


def describe_olmo3(config: ModelConfig) -> Json:
    """Rotary positions are said for each kind of layer by transformers itself."""
    said = {**describe(config), "layer_types": describe_qwen3(config)["layer_types"]}
    said["sliding_window"] = config.sliding_window.window
    sections = {"A": config.attention, "W": config.sliding_window}
    said["rope_parameters"] = {
        kind: parameters(sections[letter] if letter in letters(config) else shape(config))
        for letter, kind in LAYER_TYPES.items()
    }
    return said


def links(config: ModelConfig, *, after: bool) -> Iterator[Link]:
    """Norms before what they serve, or after it."""
    norm = parts.norm(config)
    first = "post_attention_layernorm" if after else "input_layernorm"
    second = "post_feedforward_layernorm" if after else "post_attention_layernorm"
    yield from parts.ends(config)
    for i, spec in enumerate(specs(config)):
        ours, theirs = f"blocks.{i}.", f"model.layers.{i}."
        a = config.attention if spec.mixers == ("A",) else config.sliding_window
        mixer = parts.attention(a, config)
        yield from within(ours + "mixers.0.", theirs + "self_attn.", mixer)
        yield link(f"{ours}mixer_norm.weight", f"{theirs}{first}.weight", rewrite=norm)
        if spec.mlp:
            yield link(f"{ours}mlp_norm.weight", f"{theirs}{second}.weight", rewrite=norm)
            yield from within(ours + "mlp.", theirs + "mlp.", parts.mlp(config))
        else:
            yield filled(f"{theirs}{second}.weight", 1.0, config.d_model)
            yield from within("", theirs + "mlp.", parts.silent_mlp(config))


def window_of(said: Json) -> int | None:
    """Of the layers that have one; only Qwen3 can turn it off."""
    return said.get("sliding_window") if said.get("use_sliding_window", True) else None


def llama_layers(said: Json) -> list[str]:
    """Full attention everywhere."""
    return [LAYER_TYPES["A"]] * said["num_hidden_layers"]


def mistral_layers(said: Json) -> list[str]:
    """Windows everywhere, unless there is none."""
    letter = "A" if window_of(said) is None else "W"
    return [LAYER_TYPES[letter]] * said["num_hidden_layers"]


def qwen3_layers(said: Json) -> list[str]:
    """What is said, or windows from a layer on."""
    if said.get("layer_types") is not None:
        return said["layer_types"]
    n = said["num_hidden_layers"]
    first = n if window_of(said) is None else min(n, said["max_window_layers"])
    return [LAYER_TYPES["A"]] * first + [LAYER_TYPES["W"]] * (n - first)


def olmo3_layers(said: Json) -> list[str]:
    """What is said."""
    return said["layer_types"]


def read(
    said: Json, *, layers: Callable[[Json], list[str]], qk_norm: bool, after: bool
) -> ModelConfig:
    """Every block attention, with its MLP."""
    heads = said["num_attention_heads"]
    common = {
        "heads": heads,
        "kv_heads": said.get("num_key_value_heads") or heads,
        "head_dim": said.get("head_dim") or said["hidden_size"] // heads,
        "qk_norm": qk_norm,
        "norm_after": after,
        "qk_norm_joint": after,
    }
    full, windows = by_kind(said) if after else [positions(said)] * 2
    kinds, window = layers(said), window_of(said)
    if window is None and LAYER_TYPES["W"] in kinds:
        raise ValueError("it has layers of windows, and sliding_window does not say how wide")
    return stack(
        {**said, "layer_types": kinds},
        KINDS,
        attention=AttentionConfig(**common, **full),
        sliding_window=SlidingWindowConfig(**common, **windows, window=window or 256),
        mlp=MlpConfig(hidden=said["intermediate_size"]),
    )


def by_kind(said: Json) -> list[Json]:
    """Rotary positions of full attention and of windows; the older spelling scales the first."""
    nested = said.get("rope_parameters") or {}
    full, windows = (nested.get(kind, {}) for kind in LAYER_TYPES.values())
    return [
        positions({**said, "rope_parameters": full}),
        positions({**said, "rope_parameters": windows, "rope_scaling": None}),
    ]


LLAMA = Target(
    model_type="llama",
    architecture="LlamaForCausalLM",
    served_by="vLLM, SGLang",
    blockers=partial(blockers, allowed="A", qk_norm=False, after=False),
    describe=describe_llama,
    links=partial(links, after=False),
    read=partial(read, layers=llama_layers, qk_norm=False, after=False),
    defaults={"rope_theta": 1e4},
)
MISTRAL = Target(
    model_type="mistral",
    architecture="MistralForCausalLM",
    served_by="vLLM, SGLang",
    blockers=partial(blockers, allowed="W", qk_norm=False, after=False),
    describe=describe_mistral,
    links=partial(links, after=False),
    read=partial(read, layers=mistral_layers, qk_norm=False, after=False),
    defaults={"rope_theta": 1e4, "sliding_window": 4096, "num_key_value_heads": 8},
)
QWEN3 = Target(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    served_by="vLLM, SGLang",
    blockers=partial(blockers, allowed="AW", qk_norm=True, after=False),
    describe=describe_qwen3,
    links=partial(links, after=False),
    read=partial(read, layers=qwen3_layers, qk_norm=True, after=False),
    defaults={
        **{"rope_theta": 1e4, "head_dim": 128, "num_key_value_heads": 32},
        **{"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28},
    },
)
OLMO3 = Target(
    model_type="olmo3",
    architecture="Olmo3ForCausalLM",
    served_by="vLLM, SGLang",
    blockers=partial(blockers, allowed="AW", qk_norm=True, after=True),
    describe=describe_olmo3,
    links=partial(links, after=True),
    read=partial(read, layers=olmo3_layers, qk_norm=True, after=True),
    defaults={"rope_theta": 5e5, "sliding_window": 4096},
)
