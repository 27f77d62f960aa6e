"""Each mixer equals transformers' own torch module with the same weights: outputs and gradients.

Ours is called with parameters computed from theirs, so both gradients land on the same leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from torch.func import functional_call

from lmtrain.layout import SequenceLayout
from lmtrain.models.config import (
    AttentionConfig,
    GatedDeltaNetConfig,
    Mamba2Config,
    NormConfig,
    SlidingWindowConfig,
)
from lmtrain.models.mixers.attention import Attention
from lmtrain.models.mixers.gated_deltanet import GatedDeltaNet
from lmtrain.models.mixers.mamba2 import Mamba2

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

transformers = pytest.importorskip("transformers")

LENGTHS = [1, 2, 63, 64, 65, 257, 1000]
TOLERANCE = 1e-5
D, HEADS, KV_HEADS, HEAD_DIM = 48, 4, 2, 16


class Pair(NamedTuple):
    """Their module, how to call it, our module, and our parameters made from theirs."""

    theirs: nn.Module
    call: Callable[[Tensor], Tensor]
    ours: nn.Module
    parameters: Callable[[dict[str, Tensor]], dict[str, Tensor]]


def randomise(module: nn.Module) -> nn.Module:
    """Every parameter away from its special initial value; decays stay slow."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("A_log"):
                parameter.copy_(-2 + 0.5 * noise)
            elif name.endswith("dt_bias"):
                parameter.copy_(-1 + 0.5 * noise)
            elif parameter.dim() == 1:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
    return module


def attention_call(module: nn.Module, rotary: nn.Module, window: int | None) -> Callable:
    def call(x: Tensor) -> Tensor:
        position = torch.arange(len(x))
        distance = position[:, None] - position
        hidden = (distance < 0) | (distance >= (window or len(x)))
        mask = torch.zeros(distance.shape).masked_fill(hidden, -torch.inf)[None, None]
        tables = rotary(x[None], position[None])
        return module(x[None], position_embeddings=tables, attention_mask=mask)[0][0]

    return call


def attention_parameters(p: dict[str, Tensor]) -> dict[str, Tensor]:
    q = p["q_proj.weight"]
    gate = []
    if len(q) == 2 * HEADS * HEAD_DIM:  # rows of a head: query, then gate
        q, g = q.view(HEADS, 2, HEAD_DIM, D).unbind(1)
        q, gate = q.flatten(0, 1), [g.flatten(0, 1)]
    projections = [q, p["k_proj.weight"], p["v_proj.weight"], *gate]
    norms = {name: p[name] for name in ("q_norm.weight", "k_norm.weight") if name in p}
    return {
        "in_proj.weight": torch.cat(projections),
        "out_proj.weight": p["o_proj.weight"],
        **norms,
    }


def llama() -> Pair:
    from transformers.models.llama import modeling_llama as m

    config = transformers.LlamaConfig(
        hidden_size=D, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM
    )
    config._attn_implementation = "eager"
    theirs = randomise(m.LlamaAttention(config, 0))
    ours = AttentionConfig(
        heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM, qk_norm=False, rope_theta=10_000.0
    )
    call = attention_call(theirs, m.LlamaRotaryEmbedding(config), None)
    return Pair(theirs, call, Attention(ours, D, NormConfig()), attention_parameters)


def qwen3_window() -> Pair:
    from transformers.models.qwen3 import modeling_qwen3 as m

    window = 48
    config = transformers.Qwen3Config(
        hidden_size=D,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        use_sliding_window=True,
        sliding_window=window,
        max_window_layers=0,
    )
    config._attn_implementation = "eager"
    theirs = randomise(m.Qwen3Attention(config, 0))
    ours = SlidingWindowConfig(
        heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM, rope_theta=1e6, window=window
    )
    call = attention_call(theirs, m.Qwen3RotaryEmbedding(config), window)
    return Pair(theirs, call, Attention(ours, D, NormConfig()), attention_parameters)


def qwen3_next_config() -> Any:
    config = transformers.Qwen3NextConfig(
        hidden_size=D,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1e5,
            "partial_rotary_factor": 0.25,
        },
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=12,
        linear_value_head_dim=20,
        num_hidden_layers=2,
        layer_types=["linear_attention", "full_attention"],
    )
    config._attn_implementation = "eager"
    return config


def qwen3_next_attention() -> Pair:
    from transformers.models.qwen3_next import modeling_qwen3_next as m

    config = qwen3_next_config()
    theirs = randomise(m.Qwen3NextAttention(config, 1))
    ours = AttentionConfig(
        heads=HEADS,
        kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        output_gate=True,
        partial_rotary_factor=0.25,
    )
    call = attention_call(theirs, m.Qwen3NextRotaryEmbedding(config), None)
    mixer = Attention(ours, D, NormConfig(zero_centered=True))
    return Pair(theirs, call, mixer, attention_parameters)


def gated_deltanet() -> Pair:
    from transformers.models.qwen3_next import modeling_qwen3_next as m

    config = qwen3_next_config()
    theirs = randomise(m.Qwen3NextGatedDeltaNet(config, 0))
    ours = GatedDeltaNetConfig(key_heads=2, value_heads=4, key_dim=12, value_dim=20)

    def parameters(p: dict[str, Tensor]) -> dict[str, Tensor]:
        # their rows are grouped by key head: q, k, and the values and gates of its value heads
        parts = p["in_proj_qkvz.weight"].view(2, -1, D).split([12, 12, 40, 40], 1)
        beta, dt = p["in_proj_ba.weight"].view(2, 4, D).split(2, 1)
        rows = [x.flatten(0, 1) for x in (*parts, beta, dt)]
        return {
            "in_proj.weight": torch.cat(rows),
            "conv_weight": p["conv1d.weight"].squeeze(1).T,
            "out_proj.weight": p["out_proj.weight"],
            **{name: p[name] for name in ("dt_bias", "A_log", "norm.weight")},
        }

    mixer = GatedDeltaNet(ours, D, NormConfig())
    return Pair(theirs, lambda x: theirs(x[None])[0], mixer, parameters)


def mamba2(groups: int) -> Pair:
    from transformers.models.mamba2 import modeling_mamba2 as m

    config = transformers.Mamba2Config(
        hidden_size=D,
        num_heads=6,
        head_dim=16,
        state_size=10,
        n_groups=groups,
        chunk_size=64,
        num_hidden_layers=1,
        time_step_limit=(0.0, float("inf")),
        layer_norm_epsilon=1e-5,
    )
    theirs = randomise(m.Mamba2Mixer(config, 0))
    ours = Mamba2Config(head_dim=16, state_dim=10, groups=groups)

    def parameters(p: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            "conv_weight": p["conv1d.weight"].squeeze(1).T,
            "conv_bias": p["conv1d.bias"],
            "norm_weight": p["norm.weight"],
            **{n: p[n] for n in ("in_proj.weight", "out_proj.weight", "dt_bias", "A_log", "D")},
        }

    mixer = Mamba2(ours, D, NormConfig(eps=1e-5))
    return Pair(theirs, lambda x: theirs(x[None])[0], mixer, parameters)


def falcon_h1(*, norm: bool) -> Pair:
    """Mamba-2 of a width of its own, with the norm behind its gate or without."""
    from transformers.models.falcon_h1 import modeling_falcon_h1 as m

    config = transformers.FalconH1Config(
        hidden_size=D,
        num_hidden_layers=1,
        num_attention_heads=4,
        mamba_d_ssm=80,
        mamba_n_heads=5,
        mamba_d_head=16,
        mamba_d_state=10,
        mamba_n_groups=5 if norm else 1,
        mamba_rms_norm=norm,
        mamba_norm_before_gate=False,
        mamba_chunk_size=64,
        rms_norm_eps=1e-5,
    )
    theirs = randomise(m.FalconH1Mixer(config, 0))
    theirs.register_buffer("mup_vector", m.compute_mup_vector(config), persistent=False)
    ours = Mamba2Config(
        inner=80, head_dim=16, state_dim=10, groups=config.mamba_n_groups, norm=norm
    )

    def parameters(p: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            "conv_weight": p["conv1d.weight"].squeeze(1).T,
            "conv_bias": p["conv1d.bias"],
            **({"norm_weight": p["norm.weight"]} if norm else {}),
            **{n: p[n] for n in ("in_proj.weight", "out_proj.weight", "dt_bias", "A_log", "D")},
        }

    mixer = Mamba2(ours, D, NormConfig(eps=1e-5))
    return Pair(theirs, lambda x: theirs(x[None])[0], mixer, parameters)


PAIRS = {
    "llama attention": llama,
    "qwen3 window": qwen3_window,
    "qwen3-next attention": qwen3_next_attention,
    "qwen3-next gated delta": gated_deltanet,
    "mamba2": lambda: mamba2(1),
    "mamba2 groups": lambda: mamba2(3),
    "falcon-h1 mamba2": lambda: falcon_h1(norm=False),
    "falcon-h1 mamba2 norm": lambda: falcon_h1(norm=True),
}


def error(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", PAIRS)
def test_mixer_equals_transformers(name: str, length: int) -> None:
    torch.manual_seed(0)  # transformers draws its own initial weights
    pair = PAIRS[name]()
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(length, D, generator=generator, requires_grad=True)
    cotangent = torch.randn(length, D, generator=generator)
    theirs: dict[str, Tensor] = dict(pair.theirs.named_parameters())
    expected = pair.call(x)
    want = torch.autograd.grad(expected, [x, *theirs.values()], cotangent)
    layout = SequenceLayout.of_lengths([length])
    actual = functional_call(pair.ours, pair.parameters(theirs), (x, layout))
    have = torch.autograd.grad(actual, [x, *theirs.values()], cotangent)
    assert error(actual, expected) <= TOLERANCE
    # First tokens have little past to decay, and a norm for each head undoes what D scales: what
    # cancels in such gradients is of the size of the others.
    least = 1e-2 * max(g.norm() for g in want[1:]) if length < 3 else 0.0
    for key, a, b in zip(["x", *theirs], have, want, strict=True):
        assert (a - b).norm() <= TOLERANCE * max(b.norm(), least), key


@pytest.mark.parametrize("name", PAIRS)
def test_packed_documents_equal_each_alone(name: str) -> None:
    torch.manual_seed(0)
    pair = PAIRS[name]()
    ours = pair.ours.double()
    parameters = pair.parameters({k: p.double() for k, p in pair.theirs.named_parameters()})
    lengths = [1, 63, 1, 1, 130, 64, 2, 65, 130]
    x = torch.randn(sum(lengths), D, dtype=torch.float64)
    packed = functional_call(ours, parameters, (x, SequenceLayout.of_lengths(lengths)))
    alone = [
        functional_call(ours, parameters, (part, SequenceLayout.of_lengths([len(part)])))
        for part in x.split(lengths)
    ]
    assert error(packed, torch.cat(alone)) <= 1e-10
