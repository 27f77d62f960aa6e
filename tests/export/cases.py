"""Stacks for every target, and checkpoints of them with hard weights."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from lmtrain import config as configuration
from lmtrain.data.tokenize import bytes_tokenizer
from lmtrain.models.config import (
    AttentionConfig,
    GatedDeltaNetConfig,
    Mamba2Config,
    MlpConfig,
    MlpKind,
    ModelConfig,
    NormConfig,
    SlidingWindowConfig,
)
from lmtrain.models.decoder import Decoder
from lmtrain.models.rope import RopeKind, RopeScaling
from lmtrain.train.checkpoint import State
from lmtrain.train.manifest import NAME, Manifest

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

HEADS = {"heads": 4, "kv_heads": 2, "rope_theta": 10_000.0}
PLAIN = AttentionConfig(**HEADS, qk_norm=False)
WINDOW = SlidingWindowConfig(**HEADS, window=24)
AFTER = AttentionConfig(**HEADS, qk_norm_joint=True, norm_after=True)
BASE = ModelConfig(
    d_model=32,
    n_layers=3,
    vocab_size=320,
    attention=AttentionConfig(**HEADS),
    sliding_window=WINDOW,
    mamba2=Mamba2Config(head_dim=16, state_dim=8),
    gated_deltanet=GatedDeltaNetConfig(key_heads=2, value_heads=4, key_dim=8, value_dim=12),
    mlp=MlpConfig(hidden=48),
)
BESIDE = replace(BASE, pattern="[AM]", attention=PLAIN, branch_norm=False)
CENTERED = NormConfig(zero_centered=True)
YARN = RopeScaling(kind=RopeKind.yarn, factor=4.0, original_length=64)
SHARP = replace(YARN, beta_fast=16.0, beta_slow=2.0, attention_factor=1.5)
LLAMA3 = RopeScaling(kind=RopeKind.llama3, factor=8.0, original_length=64)
EARLY = replace(LLAMA3, factor=32.0, low_freq_factor=2.0, high_freq_factor=6.0)
LINEAR = RopeScaling(kind=RopeKind.linear, factor=8.0)

NATIVE: dict[str, tuple[str, ModelConfig]] = {
    "llama": ("llama", replace(BASE, pattern="AaA", attention=PLAIN, tie_embeddings=False)),
    "mistral": (
        "mistral",
        replace(BASE, pattern="W", sliding_window=replace(WINDOW, qk_norm=False)),
    ),
    "qwen3": ("qwen3", replace(BASE, pattern="A", norm=CENTERED)),
    "qwen3 windows": ("qwen3", replace(BASE, pattern="WWA")),
    "olmo3": (
        "olmo3",
        replace(
            BASE,
            pattern="WWA",
            attention=AFTER,
            sliding_window=replace(WINDOW, qk_norm_joint=True, norm_after=True),
        ),
    ),
    "qwen3_5": ("qwen3_5_text", replace(BASE, pattern="GGA")),
    "qwen3_5 own": (
        "qwen3_5_text",
        replace(
            BASE,
            pattern="Gga",
            norm=CENTERED,
            tie_embeddings=False,
            attention=AttentionConfig(
                **HEADS, head_dim=12, output_gate=True, partial_rotary_factor=0.5
            ),
        ),
    ),
    "olmo_hybrid": (
        "olmo_hybrid",
        replace(
            BASE,
            pattern="GgA",
            attention=replace(AFTER, rope=False),
            gated_deltanet=replace(BASE.gated_deltanet, beta_scale=2.0),
            norm=NormConfig(eps=1e-5),
        ),
    ),
    "granite": ("granitemoehybrid", replace(BASE, pattern="MmA", attention=PLAIN)),
    "granite nope": (
        "granitemoehybrid",
        replace(
            BASE,
            pattern="AMM",
            attention=replace(PLAIN, rope=False),
            tie_embeddings=False,
            mamba2=Mamba2Config(head_dim=16, state_dim=8, groups=2, conv_bias=False),
        ),
    ),
    "falcon_h1": ("falcon_h1", BESIDE),
    "falcon_h1 own": (
        "falcon_h1",
        replace(
            BESIDE,
            pattern="[MA][am]",
            norm=CENTERED,
            tie_embeddings=False,
            attention=replace(PLAIN, head_dim=12, rope_scaling=YARN),
            mamba2=Mamba2Config(
                inner=48, head_dim=12, state_dim=8, groups=2, conv_bias=False, norm=False
            ),
        ),
    ),
    "falcon_h1 llama3": (
        "falcon_h1",
        replace(
            BESIDE,
            attention=replace(PLAIN, rope_scaling=LLAMA3),
            mamba2=replace(BASE.mamba2, groups=4),
        ),
    ),
    "nemotron": (
        "nemotron_h",
        replace(
            BASE,
            pattern="mA-M",
            n_layers=4,
            attention=replace(PLAIN, rope=False, head_dim=12),
            mlp=MlpConfig(kind=MlpKind.relu2, hidden=48),
            mamba2=Mamba2Config(inner=48, head_dim=12, state_dim=8, groups=2),
        ),
    ),
    "mamba2": ("mamba2", replace(BASE, pattern="m")),
    "llama yarn": (
        "llama",
        replace(BASE, pattern="A", attention=replace(PLAIN, rope_scaling=YARN)),
    ),
    "llama llama3": (
        "llama",
        replace(BASE, pattern="A", attention=replace(PLAIN, rope_scaling=LLAMA3)),
    ),
    "llama linear": (
        "llama",
        replace(BASE, pattern="A", attention=replace(PLAIN, rope_scaling=LINEAR)),
    ),
    "mistral yarn": (
        "mistral",
        replace(
            BASE, pattern="W", sliding_window=replace(WINDOW, qk_norm=False, rope_scaling=YARN)
        ),
    ),
    "qwen3 yarn": (
        "qwen3",
        replace(
            BASE,
            pattern="WA",
            attention=AttentionConfig(**HEADS, rope_scaling=SHARP),
            sliding_window=replace(WINDOW, rope_scaling=SHARP),
        ),
    ),
    "olmo3 yarn": (
        "olmo3",
        replace(
            BASE,
            pattern="WWA",
            attention=replace(AFTER, rope_scaling=YARN, rope_theta=5e5),
            sliding_window=replace(WINDOW, qk_norm_joint=True, norm_after=True),
        ),
    ),
    "qwen3_5 yarn": (
        "qwen3_5_text",
        replace(
            BASE,
            pattern="GA",
            attention=AttentionConfig(
                **HEADS, head_dim=16, partial_rotary_factor=0.75, rope_scaling=YARN
            ),
        ),
    ),
    "qwen3_5 llama3": (
        "qwen3_5_text",
        replace(BASE, pattern="GA", attention=AttentionConfig(**HEADS, rope_scaling=EARLY)),
    ),
    "olmo_hybrid yarn": (
        "olmo_hybrid",
        replace(
            BASE,
            pattern="GA",
            attention=replace(AFTER, rope_scaling=YARN),
            norm=NormConfig(eps=1e-5),
        ),
    ),
    "granite linear": (
        "granitemoehybrid",
        replace(BASE, pattern="MA", attention=replace(PLAIN, rope_scaling=LINEAR)),
    ),
}
"""Name of the case: the target that must be chosen, and the stack."""

GATED = AttentionConfig(**HEADS, output_gate=True)
CUSTOM: dict[str, ModelConfig] = {
    "all four": replace(BASE, pattern="GWMA", n_layers=4, attention=GATED),
    "GW": replace(BASE, pattern="GW", tie_embeddings=False),
    "MA": replace(BASE, pattern="MA", norm=CENTERED),
    "GMA": replace(
        BASE, pattern="GMA", gated_deltanet=replace(BASE.gated_deltanet, beta_scale=2.0)
    ),
    "G": replace(BASE, pattern="G"),
    "M": replace(BASE, pattern="M", mamba2=Mamba2Config(head_dim=16, state_dim=8, groups=2)),
    "side by side": replace(BASE, pattern="[AM][wg]G", attention=AFTER),
    "yarn and linear": replace(
        BASE,
        pattern="GWMA",
        n_layers=4,
        attention=replace(GATED, partial_rotary_factor=0.75, head_dim=16, rope_scaling=YARN),
        sliding_window=replace(WINDOW, partial_rotary_factor=0.25, rope_scaling=LINEAR),
    ),
    "llama3 and yarn": replace(
        BASE,
        pattern="GWA",
        attention=replace(GATED, rope_scaling=EARLY),
        sliding_window=replace(WINDOW, rope_scaling=YARN),
    ),
    "side by side without norms": replace(
        BASE,
        pattern="[AM][gm]",
        branch_norm=False,
        mamba2=Mamba2Config(inner=48, head_dim=12, state_dim=8, groups=2, norm=False),
    ),
    "yarn with all its keys": replace(
        BASE, pattern="[AM]", attention=AttentionConfig(**HEADS, rope_scaling=SHARP)
    ),
    "no MLP": replace(
        BASE,
        pattern="mg-aW-",
        n_layers=6,
        mlp=MlpConfig(kind=MlpKind.relu2, hidden=48),
        attention=replace(AFTER, rope=False),
    ),
}


def weights(model: ModelConfig) -> dict[str, Tensor]:
    """Every parameter away from its special initial value; decays slow enough to remember."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in Decoder(model).named_parameters()}
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: _spread(name, x, model) for name, x in drawn.items()}


def _spread(name: str, x: Tensor, model: ModelConfig) -> Tensor:  # noqa: PLR0911
    match name.rsplit(".", 1)[-1]:
        case "A_log":
            return 0.5 * x - 2
        case "dt_bias":
            return 0.5 * x - 1
        case "weight" if x.dim() == 1:
            plain = not model.norm.zero_centered or (".mixers." in name and "_norm" not in name)
            return 0.2 * x + (1.0 if plain else 0.0)
        case "weight" if name.startswith("embedding"):
            return 0.3 * x
        case "conv_weight":
            return 0.4 * x
        case "norm_weight" | "D":
            return 0.2 * x + 1
        case "conv_bias":
            return 0.3 * x
        case _:
            return x * x[0].numel() ** -0.5


def checkpoint(folder: Path, model: ModelConfig, tensors: dict[str, Tensor] | None = None) -> Path:
    """A checkpoint of step 7 of a run without data."""
    (folder / "model").mkdir(parents=True)
    run = configuration.RunConfig(model=model)
    (folder / "config.yaml").write_text(configuration.to_yaml(run))
    bytes_tokenizer().save(str(folder / "tokenizer.json"))
    state = State(step=7, plan="", identity={}, tokens=28_672)
    (folder / "state.json").write_text(json.dumps(asdict(state)))
    save_file(tensors or weights(model), folder / "model" / "model-00001-of-00001.safetensors")
    seal(folder)
    return folder


def seal(folder: Path) -> None:
    """Write the manifest of the files as they are now."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != NAME]
    Manifest.of(folder, files).write(folder / NAME)
